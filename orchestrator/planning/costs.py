"""What a run takes without faults: measured in the ledger of a run like it, or assumed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.errors import SpecError
from orchestrator.ledger import BEFORE, DOWN, NODES, REPLAY, RESTORE, START, STEP, Ledger
from orchestrator.planning.failures import Costs
from orchestrator.planning.plan import Plan

_BESIDE = ("data wait", "evaluate", "samples", "other")
_COPY_BYTES_PER_SECOND, _WRITE_BYTES_PER_SECOND = 2e9, 0.5e9
"""Assumed of a copy of the state in memory, and of the storage."""
_PROCESSES_SECONDS = 60.0
"""Assumed from a fault until new processes have imported all."""


def costs_measured(ledger: Ledger, checkpoint_every: int, run_id: str) -> Costs:
    """From what a run took.

    Args:
        ledger: its.
        checkpoint_every: steps between its checkpoints.
        run_id: whose they are.

    Raises:
        SpecError: it took no step that counted.
    """
    seconds = ledger.seconds
    if not ledger.steps:
        raise SpecError(f"--like {run_id}: it took no step yet, so nothing was measured in it")
    taken = 1 + seconds.get(REPLAY, 0.0) / max(seconds.get(STEP, 0.0), 1e-9)
    starts = sum(spent for part, spent in seconds.items() if part.startswith(START))
    start = starts / (ledger.faults + max(1, ledger.launch))
    lost = seconds.get(DOWN, 0.0) + seconds.get(RESTORE, 0.0)
    saves = max(1.0, ledger.steps * taken / checkpoint_every)
    return Costs(
        step=seconds.get(STEP, 0.0) / ledger.steps,
        beside=sum(seconds.get(part, 0.0) for part in _BESIDE) / ledger.steps,
        save=seconds.get("checkpoint", 0.0) / saves,
        restart=start + (lost / ledger.faults if ledger.faults else 0.0),
        start=start + sum(seconds.get(part, 0.0) for part in (*BEFORE, NODES)),
        known_from=f"measured in {run_id}",
    )


def costs_assumed(plan: Plan, step: float) -> Costs:
    """From the size of what is saved, where no run was measured: it is copied in memory at 2 GB/s, written at 0.5 GB/s by all workers
    together, and new processes take a minute.
    """
    moments = plan.memory.optimizer
    state = plan.memory.parameters + moments
    whole = state * (1 if plan.job.strategy.kind == "ddp" else plan.world_size)
    written = whole / _WRITE_BYTES_PER_SECOND
    copied = state / _COPY_BYTES_PER_SECOND
    start = _PROCESSES_SECONDS
    return Costs(
        step=step,
        beside=0.0,
        save=copied if plan.job.checkpoint.asynchronous else copied + written,
        restart=start + written,
        start=start,
        known_from="assumed",
    )


def with_own(costs: Costs, own: Mapping[str, float]) -> Costs:
    """With what a person knows better: ``step``, ``save``, ``restart``."""
    known = ", ".join([costs.known_from, *(f"{name} as given" for name in own)])
    return replace(
        costs,
        step=own.get("step", costs.step),
        save=own.get("save", costs.save),
        restart=own.get("restart", costs.restart),
        known_from=known,
    )
