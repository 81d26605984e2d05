"""The most that one worker of a plan holds, by a real engine and real steps of the real loop on tensors without memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from orchestrator import loop, models, strategies
from orchestrator.data.reading.training import StepBatch
from orchestrator.errors import SpecError
from orchestrator.fitting.live import LiveTensors, Storage
from orchestrator.models import adapters, initialize
from orchestrator.models.base import Batch, Modules, Objective
from orchestrator.models.counting import fake_batch, lengths_of
from orchestrator.models.deferred import FirstValues, build_deferred
from orchestrator.models.tensors import TensorSpec
from orchestrator.planning.devices import runs_flash
from orchestrator.planning.peak import Peak
from orchestrator.planning.plan import Plan
from orchestrator.spec.strategy import StrategySection, ZeroOffload
from orchestrator.state import AVERAGE
from orchestrator.strategies.base import Engine, Update
from orchestrator.strategies.gpu_formats import attention_as_on_gpus, autocast_as_on_gpus
from orchestrator.strategies.optimizers import local
from orchestrator.strategies.simulated import Zeros, prepared, simulated_rank
from orchestrator.testing import RecordingSurroundings

_STEPS, _MICROS = 2, 2
"""The first step has no moments yet; the second micro-batch of a step meets the gradients of the first."""

_PARTS = {"parameter": "masters", "buffer": "parameters", AVERAGE: "averages"}
"""Kind of state -> the part that it is counted as; all others are moments."""

_FORWARD, _BACKWARD, _UPDATE, _PREPARED, _BATCH = "forward", "backward", "update", "prepared", "batch"


def simulate(given: Plan) -> Peak:
    """Take steps as rank 0 of the plan's workers would. Seconds, whatever the size: nothing is computed or allocated.

    The process must not be in a process group, and DeepSpeed must not have been imported for a GPU.
    """
    plan = on_host(short(given))
    job = plan.job
    modules, _ = _deferred(plan)
    objective = models.build_objective(job.model, job.objective)
    with ExitStack() as stack:
        stack.enter_context(simulated_rank(plan.world_size, alone_in_group=job.strategy.kind != "ddp"))
        stack.enter_context(Zeros())
        live = stack.enter_context(_live(plan))
        engine = stack.enter_context(prepared(plan, modules, objective))
        if job.scaling.gpus_per_worker:
            stack.enter_context(attention_as_on_gpus(flash=runs_flash(job.scaling.accelerator_type)))
            if job.training.precision != "fp32":
                stack.enter_context(autocast_as_on_gpus())
        return _without_offloaded(given.job.strategy, _peak_of_steps(plan, engine, objective, live))


def measure(given: Plan) -> Peak:
    """The same on real tensors and CPUs, to compare with. Collective: every rank of the plan calls it.

    Nothing is left out for offload: on a CPU there is one memory.
    """
    plan = on_host(short(given))
    modules, values = _deferred(plan)
    objective = models.build_objective(plan.job.model, plan.job.objective)
    with _live(plan) as live:
        engine = strategies.prepare(plan, modules, objective, torch.device("cpu"), values)
        peak = _peak_of_steps(plan, engine, objective, live)
    engine.close()
    return peak


def allocated(given: Plan, device: torch.device) -> int:
    """The most bytes that the same steps take on a device: on a GPU by the count of its allocator, on a CPU of tensors.
    Collective, as ``measure`` is.
    """
    if device.type == "cpu":
        return measure(given).total
    plan = short(given)
    modules, values = _deferred(plan)
    objective = models.build_objective(plan.job.model, plan.job.objective)
    before = torch.cuda.memory_allocated(device)
    engine = strategies.prepare(plan, modules, objective, device, values)
    torch.cuda.reset_peak_memory_stats(device)
    loop.train(
        plan, engine, objective, _steps(plan, objective, device), RecordingSurroundings(stop_at=_STEPS), 0
    )
    peak: int = torch.cuda.max_memory_allocated(device)
    engine.close()
    return peak - before


def _deferred(plan: Plan) -> tuple[Modules, FirstValues]:
    job = plan.job
    if not job.model.builds_deferred:
        raise SpecError(
            "model.deferred: false, and what a worker holds is found out by building its model without memory"
        )
    modules, values = build_deferred(
        partial(models.build_modules, job.model, job.objective), job.training.seed
    )
    if job.initialize.freeze:
        initialize.freeze(modules, job.initialize.freeze)
    if job.initialize.lora is not None:
        values = adapters.add_adapters(modules, job.initialize.lora, job.training.seed, values) or values
    return modules, values


def _live(plan: Plan) -> LiveTensors:
    live = LiveTensors(vocabulary=getattr(plan.job.model, "vocabulary", None))
    live.doing = _PREPARED
    return live


def on_host(plan: Plan) -> Plan:
    """The plan as fakes take it: nothing is in files, and formats of 16 bits are alike."""
    job = plan.job
    changed: dict[str, Any] = {}
    if job.training.precision == "fp16":
        changed["training"] = job.training.model_copy(update={"precision": "bf16"})
    if job.strategy.kind == "zero":
        quantized = {"quantized_weights": False, "quantized_gradients": False}
        changed["strategy"] = job.strategy.model_copy(update={"offload": ZeroOffload(), **quantized})
    return plan.model_copy(update={"job": job.model_copy(update=changed)})


def _without_offloaded(strategy: StrategySection, peak: Peak) -> Peak:
    """The peak without the parts that lie in the host's memory or in files."""
    away: tuple[str, ...] = ()
    if strategy.kind == "fsdp" and strategy.offload:
        away = ("parameters", "gradients", "moments", "averages")
    elif strategy.kind == "zero":
        if strategy.offload.optimizer != "none":
            away += ("masters", "moments", "averages")
        if strategy.offload.parameters != "none":
            away += ("parameters",)
    offloaded = sum(getattr(peak, part) for part in away)
    return peak.model_copy(update={**dict.fromkeys(away, 0), "offloaded": offloaded})


def short(plan: Plan) -> Plan:
    """The plan of but so many steps as show the most that is held, with nothing beside them."""
    micros = min(plan.accumulation_steps, _MICROS)
    training = {
        "max_steps": _STEPS + 1,
        "epochs": None,
        "global_batch_size": plan.world_size * plan.micro_batch_size * micros,
        "log_every": _STEPS + 2,
        "check_replicas_every": None,
        "compile": False,
    }
    planned = {
        "total_steps": _STEPS + 1,
        "accumulation_steps": micros,
        "evaluate_every": 0,
        "sample_every": 0,
        "checkpoint_every": _STEPS + 2,
    }
    job = plan.job.model_copy(update={"training": plan.job.training.model_copy(update=training)})
    return plan.model_copy(update={"job": job, **planned})


def _peak_of_steps(plan: Plan, engine: Engine, objective: Objective, live: LiveTensors) -> Peak:
    """Take the plan's steps on zeros, inside ``live``, in which the engine was prepared as well. Collective, where ranks
    are real.
    """
    watched = _Watched(engine, live)
    around = _Around(watched)
    live.forget_peak()
    steps = _told(live, _steps(plan, objective, torch.device("cpu")))
    loop.train(plan, watched, objective, steps, around, 0)
    return around.peak


def _steps(plan: Plan, objective: Objective, device: torch.device) -> Iterator[StepBatch]:
    specs = objective.inputs()
    lengths = lengths_of(plan.job.model, specs)
    for _ in range(plan.total_steps):
        micros = [_micro(plan, specs, lengths) for _ in range(plan.accumulation_steps)]
        there = [{name: tensor.to(device) for name, tensor in micro.items()} for micro in micros]
        yield StepBatch(there, samples=0, padded=False, epoch=0.0, tokens=0)


def _told(live: LiveTensors, steps: Iterator[StepBatch]) -> Iterator[StepBatch]:
    """The same steps, whose tensors ``live`` knows for a batch's."""
    live.doing = _BATCH
    for step in steps:
        yield step
        live.doing = _BATCH


def _micro(plan: Plan, specs: Mapping[str, TensorSpec], lengths: Mapping[str, int]) -> Batch:
    samples = plan.micro_batch_size
    batch = fake_batch(specs, lengths, samples=samples)
    if plan.job.scaling.gpus_per_worker and "document" in specs:
        batch["document_border"] = torch.zeros(samples + 1, dtype=torch.int32)  # as if each were one document
    return batch


class _Around(RecordingSurroundings):
    """Looks at the gradients before each update, and at the peak when the last of the steps has been taken."""

    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._watched, self.peak = watched, Peak()

    def before_update(self) -> None:
        """Gradients are there."""
        self._watched.see_gradients()

    def stop_requested(self, step: int) -> bool:
        """After as many steps as count; what the loop does at its end is none."""
        if step == _STEPS:
            self.peak = self._watched.by_part()
        return step == _STEPS


class _Watched:
    """An engine that says to ``live`` what is being done."""

    def __init__(self, engine: Engine, live: LiveTensors) -> None:
        self._engine, self._live = engine, live
        self._gradients: set[Storage] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def micro_step(self, phase: str, *, last: bool) -> Any:
        """See ``Engine``, as for all of these."""
        self._live.doing = _FORWARD
        return self._engine.micro_step(phase, last=last)

    def backward(self, phase: str, loss: Tensor) -> None:
        """What is made from here on belongs to the backward."""
        self._live.doing = _BACKWARD
        self._engine.backward(phase, loss)

    def step(
        self,
        phase: str,
        learning_rate_factor: float,
        clip_norm: float | None,
        leave_out: Tensor | None = None,
    ) -> Update:
        """What is made from here on belongs to the update."""
        self._live.doing = _UPDATE
        return self._engine.step(phase, learning_rate_factor, clip_norm, leave_out)

    def see_gradients(self) -> None:
        """What a backward has made and is still there before the update."""
        self._gradients |= {storage for storage in self._live.alive() if storage.born == _BACKWARD}
        for parameter in self._parameters():
            if parameter.grad is not None and (known := self._live.of(local(parameter.grad))) is not None:
                self._gradients.add(known)

    def _parameters(self) -> Iterator[Tensor]:
        for module in self._engine.modules.values():
            yield from module.parameters()

    def by_part(self) -> Peak:
        """What the peak so far was made of."""
        self._live.settle()
        parts: dict[str, int] = {}
        state = self._state()
        for storage, size in self._live.at_peak.items():
            part = state.get(storage) or self._part(storage)
            parts[part] = parts.get(part, 0) + size
        return Peak(**parts)

    def _state(self) -> dict[Storage, str]:
        """The parts that last from step to step."""
        found = {storage: "moments" for storage in self._live.alive() if storage.born == _UPDATE}
        for saved in self._engine.state():
            kind = _PARTS.get(saved.kind, "moments")
            if (known := self._live.of(saved.values)) is not None:
                found[known] = kind
        for parameter in self._parameters():
            if (known := self._live.of(local(parameter))) is not None:
                found[known] = "parameters"
        return found

    def _part(self, storage: Storage) -> str:
        if storage in self._gradients:
            return "gradients"
        if storage.is_exchanged:
            return "gathered"
        if storage.is_logits:
            return "logits"
        return {_PREPARED: "buckets", _BATCH: "batch", "": "buckets"}.get(storage.born, "activations")
