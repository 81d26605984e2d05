"""Following a run: one live view on a terminal, plain lines elsewhere, a summary at the end; Ctrl-C stops it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from json import dumps
from typing import TYPE_CHECKING, Any

from orchestrator import events
from orchestrator.cli.links import opened, ui_command
from orchestrator.cli.options import say
from orchestrator.errors import InfrastructureError
from orchestrator.narration import Narrator
from orchestrator.progress import duration

if TYPE_CHECKING:
    from orchestrator.runs import RunStatus
    from orchestrator.sdk import Run

_PLAIN_SECONDS = 5.0
_END_SECONDS = 60.0
_FORMS = {
    "system/samples_per_second": "{:,.0f}",
    "system/tokens_per_second": "{:,.0f}",
    "train/learning_rate": "{:.2e}",
    "system/data_wait_share": "{:.1%}",
}
"""Other metrics that a person follows, and how each is written."""


class _CtrlC:
    pass


_Coming = queue.SimpleQueue[str | Exception | _CtrlC | None]
"""Lines of output and what a person presses, in order; None at the end of the output."""


def follow(run: Run, *, json: bool = False) -> int:
    """Show a run until it has ended, or print its events and its last status; returns its exit code."""
    view = _JsonView(run.id) if json else _view_of(run.id)
    coming: _Coming = queue.SimpleQueue()
    threading.Thread(target=_read, args=(run, coming), daemon=True).start()
    asked = 0
    with view, _ctrl_c_put_into(coming):
        while (line := coming.get()) is not None:
            if isinstance(line, Exception):
                raise line
            if isinstance(line, str):
                view.line(line)
                continue
            asked += 1
            run.stop(now=asked > 1)
            view.note(
                "stopping at once"
                if asked > 1
                else "stopping: finishing the step and saving (Ctrl-C again: at once)"
            )
    status = _end_of(run)
    view.end(run, status)
    assert status.reason is not None
    return status.reason.exit_code


def _end_of(run: Run) -> RunStatus:
    """Its last status, which may come a little later than the last line of its output.

    Raises:
        InfrastructureError: it does not come: the head is gone, say, and the operator that would note it is away.

    """
    try:
        return run.wait(_END_SECONDS, check=False)
    except TimeoutError:
        raise InfrastructureError(
            f"{run.id}: its output has ended, and the cluster does not say yet how the run has;"
            f" `trainwright status {run.id}` will tell"
        ) from None


def _view_of(run_id: str) -> _View:
    can_move = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return _LiveView(run_id) if can_move else _PlainView(run_id)


def _read(run: Run, coming: _Coming) -> None:
    try:
        for line in run.cluster.logs(run.id, follow=True):
            coming.put(line)
        coming.put(None)
    except Exception as error:
        coming.put(error)


@contextlib.contextmanager
def _ctrl_c_put_into(coming: _Coming) -> Iterator[None]:
    """Each Ctrl-C waits for its turn, so that one that comes while another is answered is answered too."""

    def put(number: int, frame: Any) -> None:
        coming.put(_CtrlC())

    before = signal.signal(signal.SIGINT, put)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
            case "waiting" | "node_fault" | "group" | "spares" | "resize":
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
            cells.append(("left", duration(left)))
        return cells

    def refresh(self, event: dict[str, Any]) -> None:
        """Show what changed."""

    def text(self, line: str) -> None:
        """Show a line that is no event."""

    def note(self, text: str) -> None:
        """Show a sentence about the run."""

    def end(self, run: Run, status: RunStatus) -> None:
        """Show how it ended."""
        summary(run, status, self)


class _JsonView(_View):
    """Events as they come, a line each; text is one of them."""

    def line(self, line: str) -> None:
        self._say(events.parse(line) or {"event": "text", "text": line})

    def note(self, text: str) -> None:
        self._say({"event": "note", "text": text})

    def end(self, run: Run, status: RunStatus) -> None:
        self._say({"event": "status", **status.model_dump(mode="json")})

    def _say(self, event: dict[str, Any]) -> None:
        say(dumps(event))
        sys.stdout.flush()


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
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        for name, text in self.cells():
            grid.add_row(f"[dim]{name}[/]", text)
        if self.doing:
            grid.add_row("[dim]now[/]", f"{self.doing} ({duration(time.time() - self.began_at)})")
        bar = ProgressBar(total=max(1, self.total), completed=self.step)
        rows = Table.grid(expand=True)
        rows.add_row(bar)  # a bar ends no line by itself
        rows.add_row(grid)
        return Panel(rows, title=f"{self.run_id} · {self.state}", title_align="left")


def summary(run: Run, status: RunStatus, view: _View) -> None:
    """A short table of how the run ended and where to look."""
    from rich.console import Console
    from rich.table import Table

    took = f"{duration(status.ended_at - status.submitted_at)}" if status.ended_at else ""
    table = Table.grid(padding=(0, 2))
    rows = [("run", run.id), ("end", f"{status.state}: {status.message}"), ("took", took)]
    if view.restarts:
        rows.append(("restarts", str(view.restarts)))
    measured = {name: value for name, value in status.metrics.items() if name.startswith("val/")}
    trained = {name: value for name, value in status.metrics.items() if name.startswith("train/loss")}
    rows += [(name, f"{value:.4f}") for name, value in sorted((measured or trained).items())]
    profile = run.cluster.profile
    urls = {**status.urls, **({"mlflow": view.url} if view.url else {})}
    rows += sorted(opened(urls, profile, run.id).items())
    for name, text in dict(rows).items():
        table.add_row(name, text)
    console = Console(soft_wrap=True)
    console.print(table, highlight=False)
    if status.state == "succeeded":
        say(f"look at it: {ui_command(profile)}        its log: trainwright logs {run.id}")
    else:
        say(f"its log: trainwright logs {run.id}        go on: trainwright resume {run.id}")
