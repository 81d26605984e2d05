"""Where a run's time went: each second from its submission to its end belongs to one part, told from the events of its output.

An event says what begins, so the time up to the next one is that part's; a log of training splits the time since the last by
the loop's own meter. Hence the parts add up to the wall time, over all launches and attempts that the output has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STEP, REPLAY, DOWN, QUEUE, NODES, END = "step", "replay", "down", "queue", "waiting for nodes", "end"
START = "start: "
"""Before each stage of a start."""
_METER = {
    "data_wait": "data wait",
    "forward_backward": STEP,
    "optimizer": STEP,
    "checkpoint": "checkpoint",
    "evaluate": "evaluate",
    "other": "other",
}
"""Parts of the loop's meter, and what they are called here."""
_RUNNING = "steps that were not logged"


@dataclass(frozen=True)
class Ledger:
    """Seconds by part."""

    seconds: Mapping[str, float]
    """``step`` is what counted; ``replay`` what was taken again after it was lost; ``down`` from the last log before a fault to
    the next start; ``queue`` from a submission to its driver; ``start: ...`` the stages of all starts; ``end`` from the last
    log on: the last save, evaluation and the logged model.
    """
    steps: int
    """Steps that counted."""
    faults: int
    """Attempts that ended early."""
    waited_for: Mapping[int, float]
    """Seconds that the others waited for a rank whose forward passes took longer, by rank."""
    shrunken: float = 0.0
    """Where the number of workers may change: seconds of steps that counted, times the share of the most workers that was
    missing. It lies within ``step``: what the missing workers could have done, not what went by.
    """

    @property
    def wall(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())

    @property
    def effective(self) -> float:
        """Effective training time: the share of the wall time that steps took that counted."""
        return self.seconds.get(STEP, 0.0) / self.wall if self.wall else 0.0


def ledger_of(
    told: Iterable[Mapping[str, Any]], submitted_at: Mapping[int, float], now: float | None = None
) -> Ledger:
    """The ledger of a run's events.

    Args:
        told: events of the output, oldest first, of one or more launches.
        submitted_at: of each launch, in seconds since the epoch, where it is known.
        now: up to when, of a run that has not ended.

    """
    account = _Account(submitted_at)
    for event in told:
        account.take(event)
    if now is not None:
        account.charge(now)
    return Ledger(account.seconds, account.steps, account.faults, account.waited_for, account.shrunken)


@dataclass
class _Account:
    submitted_at: Mapping[int, float]
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    faults: int = 0
    waited_for: dict[int, float] = field(default_factory=dict)
    shrunken: float = 0.0
    missing: float = 0.0
    """Of the most workers that there may be, the share that there is not."""
    doing: str = ""
    """What the time from here on is charged to; empty between launches."""
    at: float = 0.0
    """Up to when all is charged."""
    step: int = 0
    reached: int = 0
    """The last step that any attempt has logged or saved."""
    step_seconds: float = 0.0
    """Of one step, by the last log."""
    unlogged: float = 0.0
    """Seconds from the last log to the fault after it, which are charged to ``down`` as long as nobody knows better."""

    def charge(self, until: float) -> float:
        """Charge the time up to here to what is done, and return it. Clocks of two machines may differ, so none is charged twice."""
        spent = max(0.0, until - self.at)
        if self.doing and spent:
            self.seconds[self.doing] = self.seconds.get(self.doing, 0.0) + spent
        self.at = max(self.at, until)
        return spent

    def move(self, seconds: float, source: str, target: str) -> None:
        self.seconds[source] -= seconds
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def take(self, event: Mapping[str, Any]) -> None:
        time = event.get("time", self.at)
        match event:
            case {"event": "state", "launch": int(launch)}:
                self.begins(time, self.submitted_at.get(launch, time))
            case {"event": "stage", "doing": str(stage)} if self.doing:
                self.goes_on(time, f"{START}{stage}")
            case {"event": "waiting"} if self.doing:
                self.goes_on(time, NODES)
            case {"event": "attempt", "start_step": int(start)} if self.doing:
                self.charge(time)
                self.starts_from(start)
            case {"event": "metrics", "step": int(step), "values": {"system/other_ms": _}} if self.doing:
                self.logged(time, step, event["values"])
            case {"event": "incident"} if self.doing:
                self.faults += 1
                self.goes_down(time)
            case {"event": "resize"} if self.doing:
                self.goes_down(time)
            case {"event": "group", "workers": int(workers), "most": int(most)}:
                self.missing = 1 - workers / most
            case {"event": "end"} if self.doing:
                self.goes_on(time, "")

    def begins(self, time: float, submitted: float) -> None:
        """A launch's driver begins; what lies between two launches belongs to nobody."""
        self.at, self.doing = min(submitted, time), QUEUE
        self.goes_on(time, f"{START}starting the driver")

    def goes_on(self, time: float, doing: str) -> None:
        """From training on: to the end, or, without a fault that was told, to another attempt in the same processes."""
        if self.doing == _RUNNING:
            self.doing = DOWN if doing else END
            self.unlogged = self.charge(time) if doing else 0.0
        self.charge(time)
        self.doing = doing

    def starts_from(self, step: int) -> None:
        """Steps behind the last log that were saved all the same, as on a notice, did count."""
        kept = min(self.unlogged, max(0, step - self.step) * self.step_seconds)
        if kept and step > self.reached:
            self.move(kept, DOWN, STEP)
            self.steps += step - self.reached
        self.unlogged, self.step = 0.0, step
        self.reached = max(self.reached, step)

    def goes_down(self, time: float) -> None:
        """The workers have left, to start again."""
        was_running = self.doing == _RUNNING
        self.doing = DOWN if was_running else self.doing
        spent = self.charge(time)
        self.unlogged = spent if was_running else 0.0
        self.doing = DOWN

    def logged(self, time: float, step: int, values: Mapping[str, float]) -> None:
        """Split the time since the last log by what the loop's meter says of its steps."""
        count = max(1, step - self.step)
        measured = {part: values[f"system/{part}_ms"] * count / 1e3 for part in _METER}
        total = sum(measured.values())
        if self.doing != _RUNNING:
            self.charge(max(self.at, time - total))  # the loop began then
        new = max(0, step - max(self.reached, self.step))
        spent = max(0.0, time - self.at)
        scale = spent / total if total else 0.0
        for part, seconds in measured.items():
            name = _METER[part]
            self.add(name, seconds * scale * new / count)
            self.shrunken += self.missing * (name == STEP) * seconds * scale * new / count
            self.add(REPLAY, seconds * scale * (1 - new / count))
        self.at = max(self.at, time)
        self.doing, self.step, self.step_seconds = _RUNNING, step, spent / count
        self.reached, self.steps = max(self.reached, step), self.steps + new
        if "system/slowest_rank" in values:
            rank = int(values["system/slowest_rank"])
            behind = values["system/slowest_rank_behind_ms"] * count / 1e3
            self.waited_for[rank] = self.waited_for.get(rank, 0.0) + behind

    def add(self, part: str, seconds: float) -> None:
        if seconds:
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds


# -- why -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """What holds a run up most, and what to change."""

    bound: str
    """``input``, ``checkpoint``, ``evaluation``, ``failure``, ``start``, ``straggler`` or ``compute``."""
    sentence: str
    """What was seen."""
    change: str
    """The field to change, and to what."""
    gain: float
    """Seconds of the wall time that the change is expected to save."""


_WORTH_SAYING = 0.1
"""A share of the wall time below this is not what holds a run up."""


def advice_of(ledger: Ledger, *, checkpoint_every: int, evaluate_every: int, reader_tasks: int) -> Advice:
    """The largest part that is no step.

    Args:
        checkpoint_every: steps between checkpoints, as planned.
        evaluate_every: steps between evaluations, as planned; 0: none.
        reader_tasks: ``data.reader_tasks``.

    """
    candidates = (
        _input(ledger, reader_tasks),
        _part(ledger, "checkpoint", "checkpoint.every_steps", checkpoint_every),
        _part(ledger, "evaluate", "training.evaluate_every", evaluate_every),
        _failure(ledger, checkpoint_every),
        _start(ledger),
        _straggler(ledger),
    )
    share, found = max(candidates, key=lambda candidate: candidate[0])
    if share >= _WORTH_SAYING:
        return found
    return Advice(
        "compute",
        f"steps that counted took {ledger.effective:.0%} of the time, and no other part {_WORTH_SAYING:.0%}",
        "training.precision: bf16 where the device has it, or scaling.workers: a faster step is what is left to gain",
        0.0,
    )


_Candidate = tuple[float, Advice]


def _share(ledger: Ledger, *parts: str) -> tuple[float, float]:
    seconds = sum(ledger.seconds.get(part, 0.0) for part in parts)
    return seconds, seconds / ledger.wall if ledger.wall else 0.0


def _input(ledger: Ledger, reader_tasks: int) -> _Candidate:
    seconds, share = _share(ledger, "data wait")
    return share, Advice(
        "input",
        f"workers waited {share:.0%} of the time for data",
        f"data.reader_tasks: {2 * reader_tasks} (now {reader_tasks}), where cores are free",
        seconds / 2,
    )


def _part(ledger: Ledger, part: str, name: str, every: int) -> _Candidate:
    """A part that comes every so many steps: half as often is half of it."""
    seconds, share = _share(ledger, part)
    kind = {"checkpoint": "checkpoint", "evaluate": "evaluation"}[part]
    return share, Advice(
        kind,
        f"training stood still {share:.0%} of the time for its {kind}s",
        f"{name}: {2 * every} (now {every})",
        seconds / 2,
    )


def _failure(ledger: Ledger, checkpoint_every: int) -> _Candidate:
    seconds, share = _share(ledger, REPLAY, DOWN, NODES)
    replayed, _ = _share(ledger, REPLAY)
    return share, Advice(
        "failure",
        f"{ledger.faults} faults cost {share:.0%} of the time: {replayed:.0f} s of steps that were taken again, and"
        f" {seconds - replayed:.0f} s in which nothing ran",
        f"checkpoint.every_steps: {max(1, checkpoint_every // 2)} (now {checkpoint_every}), which halves what is taken again",
        replayed / 2,
    )


def _start(ledger: Ledger) -> _Candidate:
    stages = {
        part: spent for part, spent in ledger.seconds.items() if part.startswith(START) or part == QUEUE
    }
    _, share = _share(ledger, *stages)
    longest = max(stages, key=lambda stage: stages[stage], default=QUEUE)
    spent = stages.get(longest, 0.0)
    return share, Advice(
        "start",
        f"{share:.0%} of the time went by before steps were taken, most of it ({spent:.0f} s) in"
        f" {longest.removeprefix(START)}",
        _START_CHANGES.get(longest.removeprefix(START), "training.max_steps: a longer run starts as seldom"),
        spent if longest.removeprefix(START) in _START_CHANGES else 0.0,
    )


_START_CHANGES = {
    QUEUE: "the cluster: its queue, its image or its nodes were waited for (status said which)",
    "preparing the data": "nothing: what was prepared is kept, and the next run of this data finds it",
}


def _straggler(ledger: Ledger) -> _Candidate:
    rank = max(ledger.waited_for, key=lambda rank: ledger.waited_for[rank], default=0)
    seconds = ledger.waited_for.get(rank, 0.0)
    share = seconds / ledger.wall if ledger.wall else 0.0
    return share, Advice(
        "straggler",
        f"the others waited {share:.0%} of the time for worker {rank}, whose forward passes take longer",
        f"scaling.node_labels or the node of worker {rank}: give it a core or a GPU of its own",
        seconds,
    )
