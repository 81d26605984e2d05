"""Chunks through Ray Data: each rank has a dataset of its own, whose read tasks run on any node of the cluster.

A read task *is* reading, decoding and transforming: no further stage is added, since each costs more than it
does (see docs/data.md). A row of what it makes is one whole step of the rank, so that wherever Ray cuts its
blocks, no batch has to be put together again; the loop gets views of the object store's memory.

A long run is a succession of datasets of a bounded number of tasks: Ray keeps a little for every task of a
dataset, from its beginning to its end.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayTaskError

from orchestrator.data.columns.layout import finished_steps, for_device
from orchestrator.data.prepared import Prepared
from orchestrator.data.quiet import quiet_ray_data
from orchestrator.data.reading.chunks import CHUNK_BYTES, chunk_bounds
from orchestrator.data.reading.training_chunks import TrainingChunks
from orchestrator.data.transforms import Batch
from orchestrator.errors import TrainwrightError
from orchestrator.planning.plan import Plan

_TASKS_PER_DATASET = 64


class StepsSource(Datasource):
    """Read tasks for ranges of steps of one rank."""

    def __init__(
        self, inputs: Any, rank: int, world_size: int, bounds: list[tuple[int, int]], step_bytes: int
    ) -> None:
        super().__init__()
        self._inputs, self._rank, self._world_size = inputs, rank, world_size
        self._bounds, self._step_bytes = bounds, step_bytes

    def get_name(self) -> str:
        """As it stands in Ray's dashboard."""
        return f"Rank{self._rank}Steps"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all steps."""
        return sum(stop - first for first, stop in self._bounds) * self._step_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One for each range, whatever parallelism is asked for."""
        return [
            ReadTask(
                partial(_read_steps, self._inputs, self._rank, self._world_size, first, stop),
                BlockMetadata(
                    num_rows=stop - first,
                    size_bytes=(stop - first) * self._step_bytes,
                    input_files=None,
                    exec_stats=None,
                ),
            )
            for first, stop in self._bounds
        ]


def _read_steps(inputs: Any, rank: int, world_size: int, first: int, stop: int) -> Iterator[pa.Table]:
    """In a task: the chunks of a range of steps, one row a step."""
    chunks = _chunks(inputs, rank, world_size)
    try:
        for chunk_first, chunk_stop in chunk_bounds(first, stop, chunks.most_steps):
            yield batch_to_table(chunks.read(chunk_first, chunk_stop, stop))
    finally:
        chunks.forget_before(stop)  # the next task in this process is likely another piece of the same window


@lru_cache(maxsize=1)
def _chunks(inputs: Any, rank: int, world_size: int) -> TrainingChunks:
    """Kept from task to task in a process of Ray's, with the files it has open."""
    prepared, plan = ray.get(inputs)
    return TrainingChunks(
        Prepared.model_validate_json(prepared),
        Plan.model_validate_json(plan),
        rank=rank,
        world_size=world_size,
    )


def batch_to_table(batch: Batch) -> pa.Table:
    """Arrays (steps, samples, ...) as a table with a row for each step, without copying."""
    columns = {}
    for name, values in batch.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        shape = values.shape[1:]
        storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
        columns[name] = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, shape), storage)
    return pa.table(columns)


def table_to_batch(table: pa.Table) -> Batch:
    """The arrays again: views of the table's memory."""
    return {name: table.column(name).combine_chunks().to_numpy_ndarray() for name in table.column_names}


def read_with_ray(
    prepared: Prepared, plan: Plan, chunks: TrainingChunks, *, rank: int, world_size: int, first_step: int
) -> Generator[list[Batch], None, None]:
    """The steps of a rank's chunks from a step on, read by Ray Data."""
    inputs = ray.put((prepared.model_dump_json(), plan.model_dump_json()))
    bounds = chunks.task_bounds(first_step)
    step_bytes = chunks.samples * prepared.carried_bytes
    spec = plan.job.data
    layouts = for_device(prepared.train[0].layouts, is_gpu=bool(plan.job.scaling.gpus_per_worker))
    _set_context(chunks.most_steps * step_bytes)
    # The views are of memory that nobody may write to, and nobody does.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    while segment := list(islice(bounds, _TASKS_PER_DATASET)):
        source = StepsSource(inputs, rank, world_size, segment, step_bytes)
        dataset = ray.data.read_datasource(
            source,
            num_cpus=spec.reader_cpus,
            concurrency=min(spec.reader_tasks, len(segment)),
            override_num_blocks=len(segment),
        )
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                for entry in bundle.blocks:
                    yield finished_steps(table_to_batch(ray.get(entry.ref)), layouts)
        except Exception as error:
            # Ray wraps what a task raised, in two layers and with its own text.
            raise cause_of(error) from error


def cause_of(error: BaseException) -> BaseException:
    """The error of ours that is within one of Ray's, else the error itself."""
    inner: BaseException | None = error
    while inner is not None:
        # Ray's own wrapper is of both classes; the error that it carries has our message.
        if isinstance(inner, TrainwrightError) and not isinstance(inner, RayTaskError):
            return inner
        inner = (inner.cause if isinstance(inner, RayTaskError) else None) or inner.__cause__
    return error


def _set_context(chunk_bytes: int) -> None:
    """For this process's datasets: ordered, quiet, a block of Ray's for each chunk."""
    context = quiet_ray_data()
    context.execution_options.preserve_order = True
    # Ray joins blocks up to the target and cuts those over one and a half of it: between, chunks stay as they are.
    context.target_max_block_size = max(1, int(min(chunk_bytes, CHUNK_BYTES) / 1.25))
