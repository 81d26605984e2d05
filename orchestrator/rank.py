"""One rank, put together from a plan: what a worker trains with, and what ``verify`` proves."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from orchestrator import checkpoint, data, models, strategies
from orchestrator.checkpoint import Checkpoint
from orchestrator.checkpoint.start import build_start, check_base, meta_of
from orchestrator.data import EvalStream, Prepared, StepBatch, TrainStream
from orchestrator.models.attention import borders_of
from orchestrator.models.base import Batch, Objective, check_batch
from orchestrator.planning.plan import Plan
from orchestrator.strategies.base import Engine
from orchestrator.strategies.copies import Copies, for_kernels
from orchestrator.strategies.device import set_up
from orchestrator.strategies.materialize import release_freed_memory
from orchestrator.strategies.replicated import rank_and_world_size

logger = logging.getLogger("orchestrator")


def assemble(plan: Plan) -> Rank:
    """Build the plan's model with its starting weights, and distribute it. Collective: every rank calls it alike.

    Works without torch.distributed too: then there is one rank. Computes on the current CUDA device where the plan
    has a GPU for each worker, else on the CPU.

    Raises:
        SpecError: the weights to start from don't fit the model, adapters find no layer, or the strategy can't do what the
            job asks.
        NotFoundError, CheckpointError: there are no such weights.

    """
    job = plan.job
    on_gpu = bool(job.scaling.gpus_per_worker)
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    set_up(job.training, device)
    begun = build_start(
        job.model, job.objective, job.initialize, base_dir=plan.base_dir, seed=job.training.seed
    )
    if begun.report is not None and rank_and_world_size()[0] == 0:
        logger.info("%s", begun.report)
    objective = models.build_objective(job.model, job.objective)
    engine = strategies.prepare(plan, begun.modules, objective, device, begun.values)
    return Rank(plan, objective, engine, base=begun.base)


class Rank:
    """Objective, engine and the way of a batch to its device, on one process of the group."""

    def __init__(self, plan: Plan, objective: Objective, engine: Engine, *, base: str = "") -> None:
        """``base``: digest of the weights below adapters."""
        self.plan, self.objective, self.engine, self._base = plan, objective, engine, base
        self.number, self.world_size = rank_and_world_size()
        self._inputs = objective.inputs()
        self._on_gpu = engine.device.type == "cuda"
        self._copies = Copies(engine.device)

    def load(self, saved: Checkpoint) -> None:
        """Put a checkpoint's state in place, whatever strategy and world size wrote it.

        Raises:
            SpecError: it holds adapters of other weights.
        """
        check_base(saved, self._base)
        with checkpoint.open_reader(saved) as reader:
            self.engine.load(reader, saved.meta["scalars"])
        release_freed_memory()

    def about_adapters(self) -> dict[str, Any]:
        """What a checkpoint says of the model below its adapters; empty where it holds all."""
        job = self.plan.job
        return meta_of(job.initialize, base_dir=self.plan.base_dir, seed=job.training.seed, base=self._base)

    def open_train(
        self, prepared: Prepared, *, start_step: int, skipped: Collection[int] = ()
    ) -> TrainStream:
        """This rank's share of the global batches after ``start_step``; ``skipped``: samples known to be bad."""
        return data.open_train(
            prepared,
            self.plan,
            rank=self.number,
            world_size=self.world_size,
            start_step=start_step,
            ready=self.to_tensors,
            skipped=skipped,
        )

    def open_eval(self, prepared: Prepared) -> EvalStream | None:
        """This rank's share of the evaluation set; None where nothing is evaluated."""
        if not self.plan.evaluate_every:
            return None
        return data.open_eval(prepared, self.plan, rank=self.number, world_size=self.world_size)

    def to_tensors(self, arrays: Mapping[str, Any]) -> Batch:
        """Tensors that can be copied to the device while it computes. Called on the stream's thread, ahead of the loop.

        Raises DataError where the batch is not what the objective reads.
        """
        # every batch, since a label out of range would end a GPU's work without a word
        check_batch(arrays, self._inputs)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if not self._on_gpu:
            return tensors
        if "document" in arrays and "document" in self._inputs:
            borders = borders_of(arrays["document"])
            tensors |= {} if borders is None else {"document_border": torch.from_numpy(borders)}
        # of this thread: else pinning would start a context on the first device
        torch.cuda.set_device(self.engine.device)
        return {name: tensor.pin_memory() for name, tensor in tensors.items()}

    def to_device(self, batch: Batch) -> Batch:
        """The batch where the engine computes; the copy need not have ended, and waits for no kernel."""
        if not self._on_gpu:
            return batch
        with self._copies.aside():
            there = {name: for_kernels(self._copies.begun(tensor)) for name, tensor in batch.items()}
        self._copies.wait_for(there.values())
        return there

    def on_device(self, stream: Iterator[StepBatch]) -> Iterator[StepBatch]:
        """The same steps with their tensors where the engine computes; the stream itself where they are there already."""
        if not self._on_gpu:
            return stream
        return (replace(share, micros=[self.to_device(micro) for micro in share.micros]) for share in stream)

    def close(self) -> None:
        """Free what the engine started."""
        self.engine.close()
