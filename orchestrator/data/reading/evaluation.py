"""The evaluation stream: the same batches each time it is asked, kept in memory where they are few."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing

from orchestrator.data.columns.layout import for_device
from orchestrator.data.prepared import Prepared
from orchestrator.data.reading.bad_samples import BadSamples, bad_samples_of
from orchestrator.data.reading.evaluation_chunks import EvaluationChunks
from orchestrator.data.reading.prefetch import ahead_of
from orchestrator.data.reading.worker_reader import chunks_ahead, decoding_threads, read_here
from orchestrator.data.transforms import Batch
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan

IN_MEMORY_BYTES = 2**28
"""An evaluation set whose share of a rank is smaller stays in memory after the first evaluation."""


class EvalStream:
    """The evaluation set of one rank, as often as asked for."""

    def __init__(self, prepared: Prepared, plan: Plan, *, rank: int, world_size: int) -> None:
        self._prepared = prepared
        assert prepared.evaluation is not None
        self._skips = plan.job.data.skip_bad_samples > 0
        self._bad = BadSamples((prepared.evaluation,), plan.job.data.skip_bad_samples)
        self._open = lambda: EvaluationChunks(prepared, plan, rank=rank, world_size=world_size)
        chunks = self._open()
        self._batches = chunks.stop
        self._layouts = for_device(prepared.train[0].layouts, is_gpu=bool(plan.job.scaling.gpus_per_worker))
        self._ahead = chunks_ahead(plan, chunks.most_steps)
        self._threads = decoding_threads(plan)
        self._fits_in_memory = chunks.stop * chunks.samples * prepared.sample_bytes <= IN_MEMORY_BYTES
        self._in_memory: list[Batch] | None = None

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """One evaluation: as many batches of the same size on every rank, each sample real once over all ranks.

        ``weight`` float32 is there where a batch has padding.

        Args:
            first: the batch to begin with.
        """
        if first or not self._fits_in_memory:
            yield from self._read(first)
            return
        if self._in_memory is None:
            batches: list[Batch] = []
            with closing(self._read(0)) as source:
                for batch in source:
                    batches.append(batch)
                    yield batch
            self._in_memory = batches
        else:
            yield from self._in_memory

    def _read(self, first: int) -> Generator[Batch, None, None]:
        start = 0 if self._skips else first  # bad samples are counted from the beginning
        source = ahead_of(read_here(self._open(), start, self._layouts, threads=self._threads), self._ahead)
        try:
            for number, batch in enumerate((batch for chunk in source for batch in chunk), start):
                if self._skips:
                    self._bad.check(bad_samples_of(batch))
                if batch["weight"].all():
                    del batch["weight"]
                if number >= first:
                    yield batch
        finally:
            source.close()

    def __len__(self) -> int:
        return self._batches


def open_eval(prepared: Prepared, plan: Plan, *, rank: int, world_size: int) -> EvalStream:
    """This rank's share of the evaluation set."""
    if prepared.evaluation is None:
        raise DataError("data.eval: there is nothing to evaluate on")
    return EvalStream(prepared, plan, rank=rank, world_size=world_size)
