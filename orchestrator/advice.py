"""What holds a run up most, by its ledger: the field to change, and what that should gain. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ledger import BEFORE, DOWN, IMAGE, NODES, QUEUE, REPLAY, RESTORE, START, STEP, Ledger
from orchestrator.planning.plan import Plan


@dataclass(frozen=True)
class Advice:
    """What holds a run up most, and what to change."""

    bound: str
    """``input``, ``checkpoint``, ``evaluation``, ``samples``, ``failure``, ``start``, ``communication``, ``straggler`` or ``compute``."""
    sentence: str
    """What was seen."""
    change: str
    """The field to change, and to what."""
    gain: float
    """Seconds of the wall time that the change is expected to save."""


_WORTH_SAYING = 0.1
"""A share of the wall time below this is not what holds a run up."""


@dataclass(frozen=True)
class Planned:
    """What a plan has of what may be changed."""

    checkpoint_every: int
    """Steps between checkpoints."""
    evaluate_every: int
    """Steps between evaluations; 0: none."""
    sample_every: int
    """Steps between samples; 0: none."""
    reader_tasks: int
    """``data.reader_tasks``."""
    total_steps: int
    """Steps of the run."""
    reduce_dtype: str
    """``strategy.reduce_dtype``; empty where the strategy has none."""

    @classmethod
    def of(cls, plan: Plan) -> Planned:
        """A plan's."""
        return cls(
            plan.checkpoint_every,
            plan.evaluate_every,
            plan.sample_every,
            plan.job.data.reader_tasks,
            plan.total_steps,
            getattr(plan.job.strategy, "reduce_dtype", ""),
        )


def advice_of(ledger: Ledger, planned: Planned) -> Advice:
    """The largest part that is no step, or that of the steps in which workers wait for each other."""
    candidates = (
        _input(ledger, planned.reader_tasks),
        _part(ledger, "checkpoint", "checkpoint.every_steps", planned.checkpoint_every),
        _part(ledger, "evaluate", "training.evaluate_every", planned.evaluate_every),
        _part(ledger, "samples", "training.sample_every", planned.sample_every),
        _failure(ledger, planned.checkpoint_every),
        _start(ledger, planned.total_steps),
        _communication(ledger, planned.reduce_dtype),
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
    return seconds, seconds / ledger.of_launches if ledger.of_launches else 0.0


def _input(ledger: Ledger, reader_tasks: int) -> _Candidate:
    """Reading goes on beside the steps, so twice as many tasks take half of both; what is left of it beyond the steps is waited for."""
    seconds, share = _share(ledger, "data wait")
    of_steps, _ = _share(ledger, STEP)
    return share, Advice(
        "input",
        f"workers waited {share:.0%} of the time for data",
        f"data.reader_tasks: {2 * reader_tasks} (now {reader_tasks}), where cores are free",
        min(seconds, (seconds + of_steps) / 2),
    )


def _part(ledger: Ledger, part: str, name: str, every: int) -> _Candidate:
    """A part that comes every so many steps: half as often is half of it."""
    seconds, share = _share(ledger, part)
    kind = {"checkpoint": "checkpoint", "evaluate": "evaluation", "samples": "samples"}[part]
    return share, Advice(
        kind,
        f"training stood still {share:.0%} of the time for its {kind.removesuffix('s')}s",
        f"{name}: {2 * every} (now {every})",
        seconds / 2,
    )


def _failure(ledger: Ledger, checkpoint_every: int) -> _Candidate:
    seconds, share = _share(ledger, REPLAY, DOWN, RESTORE, *([NODES] if ledger.faults else []))
    replayed, _ = _share(ledger, REPLAY)
    return share, Advice(
        "failure",
        f"{ledger.faults} faults cost {share:.0%} of the time: {replayed:.0f} s of steps that were taken again, and"
        f" {seconds - replayed:.0f} s in which nothing ran",
        f"checkpoint.every_steps: {max(1, checkpoint_every // 2)} (now {checkpoint_every}), which halves what is taken again",
        replayed / 2,
    )


def _start(ledger: Ledger, total_steps: int) -> _Candidate:
    """Where nothing can be changed in how it starts, a run of more steps starts as seldom: of twice as many the start is half the
    share, which gains as much of each step's time.
    """
    before = BEFORE if ledger.faults else (*BEFORE, NODES)
    stages = {
        part: spent for part, spent in ledger.seconds.items() if part.startswith(START) or part in before
    }
    seconds, share = _share(ledger, *stages)
    longest = max(stages, key=lambda stage: stages[stage], default=QUEUE)
    spent, name = stages.get(longest, 0.0), longest.removeprefix(START)
    return share, Advice(
        "start",
        f"{share:.0%} of the time went by before steps were taken, most of it ({spent:.0f} s) in {name}",
        _START_CHANGES.get(
            name,
            f"training.max_steps: {2 * total_steps} (now {total_steps}) in one run, where two would start twice",
        ),
        spent if name in _START_CHANGES else seconds / 2,
    )


_START_CHANGES = {
    QUEUE: "the cluster: its queue or a node was waited for (status said which)",
    NODES: "the cluster: nodes for the workers were waited for (status said which)",
    IMAGE: "image of the profile: a smaller one, or one that the nodes have already",
    "preparing the data": "nothing: what was prepared is kept, and the next run of this data finds it",
}


def _communication(ledger: Ledger, reduce_dtype: str) -> _Candidate:
    seconds = ledger.communication
    share = seconds / ledger.of_launches if ledger.of_launches else 0.0
    change = (
        "strategy.reduce_dtype: bf16 (now fp32), which sends half the bytes and rounds gradients"
        if reduce_dtype == "fp32"
        else "training.global_batch_size: twice as large, with half the steps, which sends gradients half as often"
    )
    return share, Advice(
        "communication",
        f"workers waited {share:.0%} of the time for gradients to be exchanged, by the least that one of them waited"
        f" ({seconds:.0f} s of {ledger.seconds.get(STEP, 0.0):.0f} s in steps)",
        change,
        seconds / 2,
    )


def _straggler(ledger: Ledger) -> _Candidate:
    rank = max(ledger.waited_for, key=lambda rank: ledger.waited_for[rank], default=0)
    seconds = ledger.waited_for.get(rank, 0.0)
    share = seconds / ledger.of_launches if ledger.of_launches else 0.0
    return share, Advice(
        "straggler",
        f"the others waited {share:.0%} of the time for worker {rank}, whose forward passes take longer",
        f"scaling.node_labels or the node of worker {rank}: give it a core or a GPU of its own",
        seconds,
    )
