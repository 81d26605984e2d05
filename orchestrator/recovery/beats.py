"""The beat of one process: a counter on the host that goes on wherever all ranks pass alike, and what the process does now.

Ray Train's controller takes the beat along where it asks a worker for its status anyway, so a beat costs an assignment.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

_LONGEST_STACK = 200
"""Frames of a thread that are kept."""
_WAITING_FRAMES = 3
_WAITS_IN = ("/torch/distributed/", "/deepspeed/comm/")
_BACKWARD = "_engine_run_backward"
"""Torch's autograd, where it waits for gradients of other ranks in C++; what a person wrote has a frame of its own in it."""


@dataclass(frozen=True)
class Beat:
    """How far a rank has come."""

    count: int = 0
    """Places it has passed; ranks that have passed the same ones have the same count."""
    doing: str = "the start"
    """What it does since then."""
    may_take_long: bool = True
    """Whether that is the start, a wait for data, a save, an evaluation or samples, which may take longer than a step."""
    longest_step: float = 0.0
    """Seconds of its longest step in this attempt; 0 before the first has been taken."""
    steps_ahead: int = 0
    """Steps that the host has taken and the device may not: between two logs nothing waits for a GPU."""
    attempt: int = 0
    """The attempt; 0 before the ranks have agreed on its number."""

    @property
    def longest_wait(self) -> float:
        """Seconds that it may stand still where nothing is wrong."""
        return self.longest_step * max(1, self.steps_ahead)


class Heart:
    """Of one process: the training thread beats, any other may look."""

    def __init__(self) -> None:
        self.beat = Beat()
        self.thread = 0
        """The training thread's identity."""
        self._caught_up_at = 0.0

    def begins(self, attempt: int) -> None:
        """An attempt begins on this thread."""
        self.beat, self.thread = Beat(attempt=attempt), threading.get_ident()

    def passes(self, doing: str, *, may_take_long: bool = False) -> None:
        """The rank goes on to do something."""
        last = self.beat
        is_first = not last.longest_step
        self.beat = replace(last, count=last.count + 1, doing=doing, may_take_long=may_take_long or is_first)

    def passes_to_step(self, step: int) -> None:
        """The rank goes on to read a step's batch, from where its seconds are counted."""
        if not self.beat.steps_ahead:
            self._caught_up_at = time.monotonic()
        self.passes(f"reading the batch of step {step}", may_take_long=True)

    def has_taken(self, step: int) -> None:
        """The host has done all of a step."""
        self.beat = replace(self.beat, steps_ahead=self.beat.steps_ahead + 1)
        self.passes(f"what is due after step {step}")

    def catches_up(self) -> None:
        """The device has done all that the host has asked for."""
        last = self.beat
        if last.steps_ahead:
            seconds = (time.monotonic() - self._caught_up_at) / last.steps_ahead
            self.beat = replace(last, longest_step=max(last.longest_step, seconds), steps_ahead=0)


heart = Heart()
"""This process's."""


Step = TypeVar("Step")


def beating(steps: Iterator[Step], start_step: int) -> Iterator[Step]:
    """The same steps, with a beat before and after each is waited for."""
    for step in itertools.count(start_step + 1):
        heart.passes_to_step(step)
        try:
            share = next(steps)
        except StopIteration:
            return
        heart.passes(f"the forward and backward pass of step {step}")
        yield share


@dataclass(frozen=True)
class Sight:
    """What one process was doing when it was asked."""

    rank: int
    host: str
    pid: int
    beat: Beat
    waits: bool
    """Whether its training thread waits for other ranks."""
    begun: dict[str, int]
    """By the name of a process group, the number of its newest collective here; groups without any are left out."""
    pending: dict[str, int]
    """Of those the number of the first that has not ended, where one has not."""
    collectives: tuple[str, ...]
    """Those that have not ended, in words."""
    stacks: str
    """Python stacks of all its threads, the training thread's first."""
    stack: tuple[str, ...] = ()
    """Frames of the training thread alone, the outermost first."""


def sight(rank: int) -> Sight:
    """Of this process, from a thread that does not train."""
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    order = sorted(frames, key=lambda thread: (thread != heart.thread, thread))
    own = traceback.extract_stack(frames[heart.thread]) if heart.thread in frames else []
    recorded = _collectives()
    pending = [entry for entry in recorded if not entry["retired"]]
    return Sight(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        beat=heart.beat,
        waits=waits_for_others([(frame.filename, frame.name) for frame in own]),
        begun={entry["process_group"][0]: entry["collective_seq_id"] for entry in recorded},
        pending={entry["process_group"][0]: entry["collective_seq_id"] for entry in reversed(pending)},
        collectives=tuple(f"{entry['profiling_name']} of {entry['input_sizes']}" for entry in pending),
        stacks="\n".join(_stack(names.get(thread, ""), frames[thread]) for thread in order),
        stack=tuple(
            f"{frame.name} {Path(frame.filename).name}:{frame.lineno}" for frame in own[-_LONGEST_STACK:]
        ),
    )


def waits_for_others(stack: list[tuple[str, str]]) -> bool:
    """Whether a thread's innermost frames, (file, function) with the innermost last, are those of a collective."""
    innermost = stack[-_WAITING_FRAMES:]
    if innermost and innermost[-1][1] == _BACKWARD:
        return True
    return any(part in file for file, _ in innermost for part in _WAITS_IN)


def _stack(name: str, frame: Any) -> str:
    lines = traceback.format_stack(frame)[-_LONGEST_STACK:]
    return f"thread {name}\n{''.join(lines)}"


def _collectives() -> list[dict[str, Any]]:
    """Torch's record of the last collectives of this process, oldest first; none where it keeps none."""
    if "torch" not in sys.modules:
        return []
    from torch._C import _distributed_c10d

    recorded = json.loads(_distributed_c10d._dump_fr_trace_json(True, False))  # type: ignore[attr-defined]
    return [entry for entry in recorded.get("entries", ()) if not entry["is_p2p"]]
