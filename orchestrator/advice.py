"""What holds a run up most, by its ledger: the field to change, and what that should gain. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ledger import DOWN, NODES, QUEUE, REPLAY, RESTORE, START, Ledger


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
    seconds, share = _share(ledger, REPLAY, DOWN, NODES, RESTORE)
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
