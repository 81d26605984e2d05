"""Parts handed out to a pool of model workers by Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.inference.pool_worker import PoolWorker, json_to_failure
from orchestrator.planning.plan import Plan
from orchestrator.room import resources_per_worker

_MOST_BLOCKS = 1_000
"""Ray keeps a little for each block; a block of several parts is one worker's."""


def handed_out(
    task: str, parts: Sequence[int], workers: int, options: Mapping[str, Any]
) -> Iterator[tuple[int, int]]:
    """Have parts written, whatever worker writes which; gives each with its rows as it is done. A worker that dies is started
    again, and what it had not answered is written by one that lives.

    Args:
        task: what is written, as JSON.
        parts: which of it.
        workers: that hold the model.
        options: of each of them, as Ray names them.

    Raises:
        DataError: a row can't be read; with file and row.
        InfrastructureError: a worker or the storage failed.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = min(len(parts), _MOST_BLOCKS)
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=blocks)
    done = dataset.map_batches(
        PoolWorker,
        fn_constructor_args=(task,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        **options,
    )
    for row in done.iter_rows():
        if row["failed"]:
            raise json_to_failure(row["failed"])
        yield int(row["part"]), int(row["rows"])


def options_of(plan: Plan) -> dict[str, Any]:
    """Of a worker on a cluster: what the plan's workers have."""
    scaling, resources = plan.job.scaling, resources_per_worker(plan)
    options: dict[str, Any] = {
        "num_cpus": resources.get("CPU", 0),
        "num_gpus": resources.get("GPU", 0),
        "max_task_retries": plan.job.recovery.max_failures,
    }
    if "memory" in resources:
        options["memory"] = resources["memory"]
    if scaling.accelerator_type:
        options["accelerator_type"] = scaling.accelerator_type
    if scaling.node_labels:
        options["label_selector"] = dict(scaling.node_labels)
    return options
