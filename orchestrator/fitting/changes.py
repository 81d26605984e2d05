"""What could be changed in a job so that it takes less memory, and what that costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.fitting.ask import Simulator
from orchestrator.planning.devices import Device
from orchestrator.planning.plan import Plan, ResolvedJob
from orchestrator.planning.verdict import Change, Verdict, needed

_NEAREST = 3
_MOST_TRIED = 24
_CHUNK_TOKENS = 1024
_MANY = (32, 1024)
"""Workers, of whom each has little of what is shared: with the most next to nothing, but then FSDP2 fills up what has fewer rows
than there are workers.
"""

Remake = Callable[[ResolvedJob], Plan]
"""The plan of a changed job; raises SpecError where it can't be had."""


@dataclass(frozen=True, eq=False)
class Step:
    """One change of one thing."""

    of: str
    """What it changes: two steps of one thing exclude each other."""
    overrides: Mapping[str, Any]
    """Dotted field -> value."""
    time: float
    """Expected time of a step against before; with more workers, the share of devices that a sample takes."""
    cost: str
    alone: bool = False
    """Not tried together with others, since a stronger one of its kind is."""


def judge(plan: Plan, device: Device, ask: Simulator, remake: Remake) -> Verdict:
    """The plan beside its device, with the nearest changes where it does not fit; where the number of workers may change, the
    group whose workers take most.

    Raises:
        SpecError: the strategy can't do what the job asks.
        InfrastructureError: the peak could not be found out.

    """
    groups = (
        Verdict(workers=one.world_size, device=device, peak=ask.peak(one, device)) for one in plan.extremes
    )
    verdict = max(groups, key=lambda one: one.needed)
    if verdict.fits:
        return verdict
    found = tuple(_fitting(plan, device, ask, remake))
    return verdict.model_copy(update={"changes": found, "least": None if found else least(plan, device, ask)})


def least(plan: Plan, device: Device, ask: Simulator) -> int | None:
    """Bytes of a worker where so many share the model that a gathered block and one sample's activations are all that is
    left; None where the optimizer keeps a model from being shared.
    """
    job = with_overrides(
        plan.job,
        {
            "strategy": {"kind": "fsdp"},
            "training.micro_batch_size": 1,
            "training.recomputation": "blocks",
        },
    )
    shared = plan.model_copy(update={"job": job, "micro_batch_size": 1})
    try:
        return min(
            needed(device, ask.peak(shared.model_copy(update={"world_size": workers}), device))
            for workers in _MANY
        )
    except SpecError:
        return None


def _fitting(plan: Plan, device: Device, ask: Simulator, remake: Remake) -> Iterator[Change]:
    """The nearest changes that fit. A change that holds another one that fits already is none of the nearest."""
    found: list[frozenset[Step]] = []
    tried = 0
    for steps in _by_cost(plan):
        if len(found) == _NEAREST or tried == _MOST_TRIED:
            return
        if any(smaller <= steps for smaller in found):
            continue
        overrides = {field: value for step in _in_order(steps) for field, value in step.overrides.items()}
        try:
            changed = remake(with_overrides(plan.job, overrides))
            if changed.memory.total - changed.memory.activations - changed.memory.offloaded > device.memory:
                continue  # what lasts from step to step is too much by the formula alone
            tried += 1
            bytes_needed = max(needed(device, ask.peak(group, device)) for group in changed.extremes)
        except (SpecError, ValueError):  # such a job can't be had
            continue
        if bytes_needed <= device.memory:
            found.append(steps)
            yield Change(
                overrides=tuple(f"{field}={_text(value)}" for field, value in overrides.items()),
                needed=bytes_needed,
                cost="; ".join(step.cost for step in _in_order(steps)),
            )


def _in_order(steps: frozenset[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: step.of)


def _by_cost(plan: Plan) -> list[frozenset[Step]]:
    """One, two or three changes at once, the cheapest first."""
    steps = list(_steps(plan))
    together = [
        frozenset(some)
        for count in (1, 2, 3)
        for some in combinations(steps, count)
        if len({step.of for step in some}) == count and (count == 1 or not any(step.alone for step in some))
    ]

    def cost(some: frozenset[Step]) -> tuple[float, int]:
        time = 1.0
        for step in some:
            time *= step.time
        return round(time, 6), len(some)

    return sorted(together, key=cost)


def _steps(plan: Plan) -> Iterator[Step]:
    job = plan.job
    if job.training.precision == "fp32":
        cost = "products in bf16, fp32 masters: numbers differ, faster where the device has bf16"
        yield Step("precision", {"training.precision": "bf16"}, 1.0, cost)
    if job.training.recomputation == "none":
        cost = "all of a block but its products twice: about a tenth more time"
        yield Step("recomputation", {"training.recomputation": "selective"}, 1.1, cost, alone=True)
    if job.training.recomputation != "blocks":
        cost = "forward of each block twice: about a third more time"
        yield Step("recomputation", {"training.recomputation": "blocks"}, 1.33, cost)
    if job.model.scores_in_chunks and getattr(job.objective, "chunk_tokens", _CHUNK_TOKENS) is None:
        cost = "logits of a few tokens at a time, made twice: a third more time for the last layer"
        yield Step("logits", {"objective.chunk_tokens": _CHUNK_TOKENS}, 1.04, cost)
    micro, slower = plan.micro_batch_size, 1.0
    while micro % 2 == 0:
        micro, slower = micro // 2, slower * 1.05
        cost = f"{plan.micro_batch_size // micro} times the forwards of a step, each smaller: about {slower - 1:.0%} more time"
        yield Step("micro batch", {"training.micro_batch_size": micro}, slower, cost)
    yield from _of_strategy(plan)
    for times in (2, 4, 8):
        sharers = "each holds a smaller share" if job.strategy.kind != "ddp" else "each has fewer samples"
        scaled = {"scaling.workers": plan.world_size * times}
        if plan.job.training.micro_batch_size is not None:
            scaled["training.micro_batch_size"] = max(1, plan.micro_batch_size // times)
        yield Step("workers", scaled, 1.2 * times, f"{times} times the devices; {sharers}")


def _of_strategy(plan: Plan) -> Iterator[Step]:
    on_gpu, strategy = bool(plan.job.scaling.gpus_per_worker), plan.job.strategy
    fsdp = {"strategy": {"kind": "fsdp"}}
    if strategy.kind == "ddp" and plan.world_size > 1:
        yield Step(
            "strategy", fsdp, 1.1, "parameters gathered twice in each micro-batch: half more bytes sent"
        )
    if on_gpu:
        offloaded = {"strategy": {"kind": "fsdp", "offload": True}}
        cost = "parameters, gradients and moments cross the host's bus, the update runs on the CPU: often twice the time"
        yield Step("strategy", offloaded, 2.0, cost)
    if strategy.kind == "zero" and strategy.stage < 3:
        deeper = {"strategy.stage": 3}
        yield Step(
            "strategy", deeper, 1.15, "parameters gathered twice in each micro-batch: half more bytes sent"
        )


def with_overrides(job: ResolvedJob, overrides: Mapping[str, Any]) -> ResolvedJob:
    """The job with dotted fields set. Raises ValueError where it is none."""
    content = job.model_dump(mode="json")
    for field, value in overrides.items():
        *path, last = field.split(".")
        section = content
        for name in path:
            section = section[name]
        section[last] = value
    return ResolvedJob.model_validate(content)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "'{" + ", ".join(f"{name}: {_text(inner)}" for name, inner in value.items()) + "}'"
    return str(value).lower() if isinstance(value, bool) else str(value)
