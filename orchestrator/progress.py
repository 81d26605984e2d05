"""How a run stands, as rows for a person: text, and in a notebook one table that is kept up to date, without widgets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from orchestrator.runs import RunStatus


def duration(seconds: float) -> str:
    """Whole seconds, with minutes and hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


def seconds_of(status: RunStatus) -> float:
    """From the submission to the end, or to now; the cluster's clock, which tells of the first, may be ahead of ours."""
    return max(0.0, (status.ended_at or time.time()) - status.submitted_at)


def rows(status: RunStatus) -> list[tuple[str, str]]:
    """Name and text of each thing that a person asks of a run."""
    found = [
        ("run", status.run_id),
        ("state", f"{status.state}{f' ({status.reason})' if status.reason else ''}"),
    ]
    if status.message:
        found.append(("message", status.message))
    found += [
        ("step", f"{status.step}/{status.total_steps}"),
        ("took" if status.state.is_final else "for", duration(seconds_of(status))),
        ("launch", str(status.launch)),
        ("attempt", str(status.attempt)),
    ]
    if status.group:
        found.append(("workers", status.group.described(status.ended_at or time.time())))
    if status.spares:
        found.append(("spare workers", f"{status.spares.held} of {status.spares.of} held ready"))
    if status.effective:
        found.append(("effective training time", f"{status.effective:.1%}"))
    if status.nodes_left_out:
        found.append(("nodes left out", ", ".join(status.nodes_left_out)))
    if status.best:
        best = status.best
        found.append(("best", f"{best.metric} {best.value:.6g} at step {best.step}"))
    return found + [(name, f"{value:.6g}") for name, value in sorted(status.metrics.items())]


def line(status: RunStatus) -> str:
    """The same in one line, for output that can only grow."""
    losses = {name: value for name, value in sorted(status.metrics.items()) if "/loss" in name}
    told = "".join(f"  {name} {value:.4g}" for name, value in losses.items())
    return f"{status.run_id}: {status.state}  step {status.step}/{status.total_steps}{told}"


@dataclass(frozen=True)
class ProgressTable:
    """A status as notebooks show objects: a table of HTML, and text where there is none."""

    status: RunStatus

    def _repr_html_(self) -> str:
        share = self.status.step / self.status.total_steps if self.status.total_steps else 0.0
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in rows(self.status)
        )
        return f"<progress value='{share:.4f}' max='1' style='width:24em'></progress><table>{cells}</table>"

    def __repr__(self) -> str:
        return "\n".join(f"{name:<24} {text}" for name, text in rows(self.status))


def shown(statuses: Iterable[RunStatus]) -> RunStatus:
    """Show each status as it comes, in a notebook in place of the one before; returns the last."""
    show = _shower()
    for status in statuses:
        show(status)
    return status


def _shower() -> Callable[[RunStatus], None]:
    kernel_display = _kernel_display()
    if kernel_display is None:
        return lambda status: print(line(status), flush=True)
    handle: Any = None

    def show(status: RunStatus) -> None:
        nonlocal handle
        if handle is None:
            handle = kernel_display(ProgressTable(status), display_id=True)
        else:
            handle.update(ProgressTable(status))

    return show


def _kernel_display() -> Any:
    """IPython's ``display`` where a notebook's kernel is what runs; IPython itself is not needed."""
    ipython = sys.modules.get("IPython")
    if ipython is None or getattr(ipython.get_ipython(), "kernel", None) is None:
        return None
    from importlib import import_module

    return import_module("IPython.display").display
