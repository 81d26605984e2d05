"""What a run's output says to a person: events as sentences, text as it is, tracebacks as the line that says what it was."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator import events
from orchestrator.spec.addresses import service_of

FORWARDED = re.compile(r"^(?:\x1b\[\d+m)?\(\w+ pid=(\d+)[^)]*\)(?:\x1b\[0m)? ?")
"""What Ray puts before a line of a process that is not the driver."""
_TRACEBACK = "Traceback (most recent call last):"
_SHARE_OF_STEPS = 0.1
"""Training is told of at each epoch's end, and after so much of the run."""
SHOW_ALL = "the whole traceback: logs --raw"
_OF_A_LIBRARY = re.compile(
    r"^(?P<library>\w+)\.(?:\w+\.)*(?P<kind>\w+)(?:\((?P<cause>\w+)\))?: (?P<text>.+)$"
)
"""The last line of a traceback whose error has a library's full name."""
_RAY_WAITS = re.compile(
    r"^(?:\[\w+ [^]]*\] )?Failed to (?:send resource request|get reserved resources).*safe to ignore"
)
"""Ray Train's own words where it asks again; a traceback follows that says no more."""


def narrated(lines: Iterable[str]) -> Iterator[str]:
    """Lines of output as a person reads them, each event with its time of day."""
    narrator = Narrator()
    for line in lines:
        event = events.parse(line)
        if event is None:
            yield from narrator.text(line)
        else:
            at = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0)))
            yield from (f"{at}  {sentence}" for sentence in narrator.sentences(event))


class Narrator:
    """Remembers what makes the next line worth telling."""

    def __init__(self) -> None:
        self._ranks: dict[str, int] = {}
        self._tracebacks = _Tracebacks()
        self._total = self._told_step = 0
        self._told_epoch = 0.0

    def text(self, line: str) -> list[str]:
        """What is shown of a line that is no event: nothing where one was cut off."""
        if events.is_part_of_one(line):
            return []
        forwarded = FORWARDED.match(line)
        pid = forwarded[1] if forwarded else ""
        said = self._tracebacks.without(pid, line[forwarded.end() :] if forwarded else line)
        if said is None or not said.strip():
            return []
        return [f"worker {self._ranks[pid]}: {said}" if pid in self._ranks else said]

    def sentences(self, event: Mapping[str, Any]) -> list[str]:
        """What is shown of an event; nothing where it is of no interest, or of a kind that this version doesn't know."""
        match event:
            case {"event": "worker", "pid": pid, "rank": int(rank)}:
                self._ranks[str(pid)] = rank
            case {"event": "stage", "doing": str(doing)}:
                return [doing]
            case {"event": "waiting", "message": str(message)}:
                return [f"waiting for nodes: {message}"]
            case {"event": "group", "workers": int(workers), "most": int(most), "because": str(because)}:
                return [f"{workers} of {most} workers, because {because}"]
            case {"event": "spares", "held": int(held), "of": int(of)}:
                return [f"{held} of {of} spare workers held ready"]
            case {"event": "resize", "message": str(message)}:
                return [f"{message}; starting again, which is not counted"]
            case {"event": "attempt", "start_step": int(start), "total_steps": int(total)}:
                self._total, self._told_step, self._told_epoch = total, start, 0.0
                return [f"goes on from step {start} (attempt {event['attempt']})"] if start else []
            case {"event": "metrics", "step": int(step), "values": dict(values)}:
                return self._measured(step, values)
            case {"event": "checkpoint", "step": int(step)}:
                return [f"saved the checkpoint of step {step:,}{_best(event, step)}"]
            case {"event": "spike", "message": str(message), "then": str(then)}:
                return [f"{message}; {then}"]
            case {"event": "incident", "message": str(message)}:
                return [incident(event)]
            case {"event": "node_fault", "node": str(node), "faults": int(faults)}:
                return [_node_fault(event, node, faults)]
            case {"event": "tracking", "url": str(url)}:
                if service_of(url) is not None:
                    return ["tracked in the cluster's MLflow, which trainwright ui opens"]
                return [f"tracked at {url}"]
            case {"event": "end", "state": str(state), "message": str(message)}:
                return [f"{state}: {message}"]
        return []

    def _measured(self, step: int, values: Mapping[str, float]) -> list[str]:
        evaluated = {name: value for name, value in values.items() if name.startswith("val/")}
        if evaluated:
            return [f"evaluated after step {step:,}: {_listed(evaluated)}"]
        losses = {name: value for name, value in values.items() if name.startswith("train/loss")}
        epoch = values.get("train/epoch", 0.0)
        is_due = int(epoch) > int(self._told_epoch) or step - self._told_step >= self._total * _SHARE_OF_STEPS
        if not losses or not (is_due or self._told_step == 0 or step == self._total):
            return []
        self._told_step, self._told_epoch = step, epoch
        rate = values.get("system/samples_per_second")
        of = f"/{self._total:,}" if self._total else ""
        speed = f", {rate:,.0f} samples a second" if rate else ""
        return [f"step {step:,}{of}, epoch {epoch:.2f}: {_listed(losses)}{speed}"]


class _Tracebacks:
    """Leaves tracebacks out, of several processes whose lines are mixed, but for a sentence that says what it was."""

    def __init__(self) -> None:
        self._inside: set[str] = set()
        self._after: set[str] = set()
        self._told: set[str] = set()
        """Processes whose next traceback is told of already."""

    def without(self, process: str, line: str) -> str | None:
        """The line as it is shown; None where it is not."""
        if _TRACEBACK in line:
            self._inside.add(process)
            return None
        if process in self._inside:
            if _is_inner(line):
                return None
            self._inside.discard(process)
            self._after.add(process)
            return None if process in self._told else f"{_sentence(line.strip())}  ({SHOW_ALL})"
        if process in self._after and _is_inner(line):  # notes, and the frames of a remote cause
            return None
        self._after.discard(process)
        self._told.discard(process)
        if _RAY_WAITS.search(line):
            self._told.add(process)
            return "Ray is slow to answer, as on a busy machine; it is asked again"
        return line


def _is_inner(line: str) -> bool:
    return (
        not line.strip() or line[0].isspace() or line.startswith(("During handling", "The above exception"))
    )


def _sentence(line: str) -> str:
    """The last line of a traceback; of a library's error who says it, and its name only behind."""
    found = _OF_A_LIBRARY.match(line)
    if found is None:
        return line
    text = found["text"].rstrip(". ")
    return f"{found['library'].capitalize()} says: {text} ({found['cause'] or found['kind']})"


def incident(event: Mapping[str, Any]) -> str:
    """What failed and what comes next."""
    if event.get("retry") and not event.get("is_counted", True):
        return f"{event['message']}; restarting, which is not counted"
    if event.get("retry"):
        return f"{event['message']}; restarting ({event.get('failure')} of {event.get('max_failures')})"
    return f"{event['message']}; not retried"


def _node_fault(event: Mapping[str, Any], node: str, faults: int) -> str:
    times = "once" if faults == 1 else f"{faults} times"
    failed = f"the hardware of {node} failed {times}"
    if event.get("is_left_out"):
        return f"{failed}: no worker is started there any more"
    most = event.get("most")
    return f"{failed}; after {most} it is left out" if most else failed


def _best(event: Mapping[str, Any], step: int) -> str:
    best = event.get("best") or {}
    return (
        f", the best so far: {_listed({best['metric']: best['value']})}" if best.get("step") == step else ""
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in sorted(values.items()))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
