"""Following a run: one live view on a terminal, plain lines elsewhere, a summary at the end; Ctrl-C stops it."""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from orchestrator import events
from orchestrator.cli.options import say
from orchestrator.narration import Narrator

if TYPE_CHECKING:
    from orchestrator.runs import RunStatus
    from orchestrator.sdk import Run

_PLAIN_SECONDS = 5.0
_FORMS = {
    "system/samples_per_second": "{:,.0f}",
    "system/tokens_per_second": "{:,.0f}",
    "train/learning_rate": "{:.2e}",
    "system/data_wait_share": "{:.1%}",
}
"""Other metrics that a person follows, and how each is written."""


def follow(run: Run) -> int:
    """Show a run until it has ended; returns its exit code."""
    view: _View = _LiveView(run.id) if sys.stdout.isatty() else _PlainView(run.id)
    lines: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(run, lines), daemon=True).start()
    asked = 0
    with view:
        while True:
            try:
                line = lines.get()
                if line is None:
                    break
                if isinstance(line, Exception):
                    raise line
                view.line(line)
            except KeyboardInterrupt:
                asked += 1
                run.stop(now=asked > 1)
                view.note(
                    "stopping at once"
                    if asked > 1
                    else "stopping: finishing the step and saving (Ctrl-C again: at once)"
                )
    status = run.status()
    summary(run, status, view)
    assert status.reason is not None
    return status.reason.exit_code


def _read(run: Run, lines: queue.SimpleQueue[str | Exception | None]) -> None:
    try:
        for line in run.cluster.logs(run.id, follow=True):
            lines.put(line)
        lines.put(None)
    except Exception as error:
        lines.put(error)


class _View:
    """What is known of a run from its events."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.values: dict[str, float] = {}
        self.step = self.total = 0
        self.state = "pending"
        self.url = ""
        self.restarts = 0
        self.logged_at: list[tuple[float, int]] = []
        self.began_at = time.time()
        self.doing = ""
        self._narrator = Narrator()

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def line(self, line: str) -> None:
        """Take one line of output."""
        event = events.parse(line)
        if event is None:
            for text in self._narrator.text(line):
                self.text(text)
            return
        sentences = self._narrator.sentences(event)
        match event["event"]:
            case "metrics":
                self.step, self.state, self.doing = event["step"], "running", ""
                self.values |= event["values"]
                self.logged_at = [*self.logged_at[-20:], (event["time"], self.step)]
                self.refresh(event)
            case "attempt":
                self.total = event["total_steps"]
                self.notes(sentences)
            case "incident":
                self.restarts += event["retry"]
                self.notes(sentences)
            case "waiting":
                self.notes(sentences)
            case "stage":
                self.doing = event["doing"]
                self.refresh(event)
            case "tracking":
                self.url = event["url"]
            case "state":
                self.state = event["state"]
                self.refresh(event)

    def notes(self, sentences: list[str]) -> None:
        """Show sentences about the run."""
        for sentence in sentences:
            self.note(sentence)

    def seconds_left(self) -> float | None:
        """From the pace of the last logged steps."""
        if len(self.logged_at) < 2 or not self.total:
            return None
        (t0, s0), (t1, s1) = self.logged_at[0], self.logged_at[-1]
        return max(0.0, (self.total - s1) * (t1 - t0) / (s1 - s0)) if s1 > s0 else None

    def cells(self) -> list[tuple[str, str]]:
        """Name and text of each figure that a person follows."""
        v = self.values
        left = self.seconds_left()
        cells = [("step", f"{self.step}/{self.total or '?'}")]
        if "train/epoch" in v:
            cells.append(("train/epoch", f"{v['train/epoch']:.2f}"))
        cells += [(name, f"{v[name]:.4f}") for name in sorted(v) if name.startswith("train/loss")]
        cells += [(name, f"{v[name]:.4f}") for name in sorted(v) if name.startswith("val/")]
        for name, form in _FORMS.items():
            if name in v:
                cells.append((name, form.format(v[name])))
        if left is not None:
            cells.append(("left", _duration(left)))
        return cells

    def refresh(self, event: dict[str, Any]) -> None:
        """Show what changed."""

    def text(self, line: str) -> None:
        """Show a line that is no event."""

    def note(self, text: str) -> None:
        """Show a sentence about the run."""


class _PlainView(_View):
    """Lines at a sane rate, for files and pipes."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self._shown = 0.0

    def refresh(self, event: dict[str, Any]) -> None:
        if event["event"] == "state":
            say(f"{self.run_id}: {self.state}")
        elif event["event"] == "stage":
            say(f"{self.doing} ({time.time() - self.began_at:.0f} s)")
        elif time.monotonic() - self._shown >= _PLAIN_SECONDS or self.step == self.total:
            self._shown = time.monotonic()
            say("  ".join(f"{name} {text}" for name, text in self.cells()))

    def text(self, line: str) -> None:
        say(line)

    def note(self, text: str) -> None:
        say(text)


class _LiveView(_View):
    """One panel that stays in place."""

    def __enter__(self) -> _View:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(
            get_renderable=self._panel, console=self._console, refresh_per_second=8, transient=True
        )
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def text(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line, style="dim"))

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        for name, text in self.cells():
            grid.add_row(f"[dim]{name}[/]", text)
        if self.doing:
            grid.add_row("[dim]now[/]", f"{self.doing} ({_duration(time.time() - self.began_at)})")
        bar = ProgressBar(total=max(1, self.total), completed=self.step)
        return Panel(Group(bar, grid), title=f"{self.run_id} · {self.state}", title_align="left")


def summary(run: Run, status: RunStatus, view: _View) -> None:
    """A short table of how the run ended and where to look."""
    from rich.console import Console
    from rich.table import Table

    took = f"{_duration(status.ended_at - status.submitted_at)}" if status.ended_at else ""
    table = Table.grid(padding=(0, 2))
    rows = [("run", run.id), ("end", f"{status.state}: {status.message}"), ("took", took)]
    if view.restarts:
        rows.append(("restarts", str(view.restarts)))
    measured = {name: value for name, value in status.metrics.items() if name.startswith("val/")}
    trained = {name: value for name, value in status.metrics.items() if name.startswith("train/loss")}
    rows += [(name, f"{value:.4f}") for name, value in sorted((measured or trained).items())]
    rows += sorted(status.urls.items())
    if view.url:
        rows.append(("mlflow", view.url))
    for name, text in dict(rows).items():
        table.add_row(name, text)
    console = Console(soft_wrap=True)
    console.print(table, highlight=False)
    if status.state == "succeeded":
        say(f"look at it: trainwright ui        its log: trainwright logs {run.id}")
    else:
        say(f"its log: trainwright logs {run.id}        go on: trainwright resume {run.id}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
