"""Which strategy ``strategy: auto`` stands for: the one that sends least among those that fit. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.errors import SpecError
from orchestrator.fitting.ask import Simulator
from orchestrator.fitting.changes import Remake, least
from orchestrator.planning.devices import Device
from orchestrator.planning.fit import needs_whole
from orchestrator.planning.plan import Plan, Weighed
from orchestrator.planning.traffic import traffic
from orchestrator.planning.verdict import needed, too_large
from orchestrator.section import format_bytes
from orchestrator.spec.strategy import DdpStrategy, FsdpStrategy, StrategySection, ZeroStrategy


def decide(plan: Plan, device: Device, ask: Simulator, remake: Remake) -> Plan:
    """The plan under the first strategy that fits, of those that send least in a step and offload nothing, and then of
    those that offload.

    Args:
        plan: of the job under any strategy.
        device: what each worker computes on.
        ask: for peaks.
        remake: the plan of a changed job.

    Raises:
        SpecError: none fits.

    """
    weighed: list[Weighed] = []
    chosen: Plan | None = None
    for strategy, sent in _in_order(plan):
        changed = remake(plan.job.model_copy(update={"strategy": strategy}))
        bytes_needed = max(needed(device, ask.peak(group, device)) for group in changed.extremes)
        fits = bytes_needed <= device.memory
        weighed.append(Weighed(strategy=strategy, sent=sent, needed=bytes_needed, fits=fits))
        if fits:
            chosen = changed
            break
    if chosen is None:
        if sentence := too_large(device, least(plan, device, ask)):
            raise SpecError(f"strategy: {sentence}")
        nearest = min(weighed, key=lambda one: one.needed)
        raise SpecError(
            f"strategy: none that auto knows fits {format_bytes(device.memory)} ({device.name}); {named(nearest.strategy)} takes"
            f" least, {format_bytes(nearest.needed)} a worker: take more workers, a smaller training.micro_batch_size or"
            " training.recomputation: blocks"
        )
    note = (
        f"strategy auto: {named(chosen.job.strategy)}, the one that sends least among those that fit"
        f" {format_bytes(device.memory)} ({device.name})"
    )
    return chosen.model_copy(update={"weighed": tuple(weighed), "notes": (*chosen.notes, note)})


def _in_order(plan: Plan) -> Iterator[tuple[StrategySection, int]]:
    """Strategies and the bytes that a worker sends in a step under each, fewest first; those that offload last."""
    strategies: list[StrategySection] = [DdpStrategy()]
    if plan.world_size > 1 and not needs_whole(plan.job):
        strategies += [ZeroStrategy(stage=1), FsdpStrategy()]
        strategies += [FsdpStrategy(offload=True)] if plan.job.scaling.gpus_per_worker else []
    for strategy in strategies:
        planned = plan.model_copy(update={"job": plan.job.model_copy(update={"strategy": strategy})})
        yield strategy, traffic(planned, node=plan.world_size).total


def named(strategy: StrategySection) -> str:
    """A strategy in a few words: ``zero 1``, ``fsdp with offload``."""
    if strategy.kind == "zero":
        return f"zero {strategy.stage}"
    return "fsdp with offload" if strategy.kind == "fsdp" and strategy.offload else strategy.kind
