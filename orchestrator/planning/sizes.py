"""Every size that a group of workers may have, so that each takes the same global batches in the same number of steps."""

from __future__ import annotations

from orchestrator.errors import SpecError
from orchestrator.planning.batch import BatchSplit, split_batch
from orchestrator.planning.plan import ResolvedJob
from orchestrator.planning.shard_group import sharers
from orchestrator.spec.scaling import WorkerRange


def possible_sizes(job: ResolvedJob) -> dict[int, BatchSplit]:
    """Workers -> how the global batch is divided among them, the smallest group first; one where their number is fixed.

    Of a range, numbers that divide the global batch and that groups which share a model fill. A worker's forward is never
    larger than in the largest group, so that fewer workers need no more memory for it.

    Raises:
        SpecError: there is none, or what the job asks for can't be had with a changing number of workers.
    """
    training, bounds = job.training, job.scaling.range
    if bounds is None:
        workers = job.scaling.most_workers
        return {workers: split_batch(training.global_batch_size, workers, training.micro_batch_size)}
    _check_range(job)
    numbers = [
        workers
        for workers in range(bounds.min, min(bounds.max, training.global_batch_size) + 1)
        if training.global_batch_size % workers == 0 and workers % sharers(job) == 0
    ]
    if not numbers:
        raise SpecError(_none(job, bounds))
    most = training.micro_batch_size or training.global_batch_size // numbers[-1]
    return {workers: _split(training.global_batch_size, workers, most) for workers in numbers}


def note_of_sizes(job: ResolvedJob, sizes: dict[int, BatchSplit]) -> str:
    """Which sizes there are, and why not the others between."""
    listed = ", ".join(str(workers) for workers in sizes)
    if len(sizes) == 1:
        listed = f"{listed} alone"
    return f"scaling.workers: {listed}; {_why(job)}, so that every size takes the same batches"


def _split(global_batch_size: int, workers: int, most: int) -> BatchSplit:
    """In micro-batches of at most so many samples."""
    share = global_batch_size // workers
    micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
    return split_batch(global_batch_size, workers, micro)


def _why(job: ResolvedJob) -> str:
    group = sharers(job)
    groups = f" and be a multiple of strategy.shard_group {group}" if group > 1 else ""
    return f"they must divide training.global_batch_size {job.training.global_batch_size}{groups}"


def _none(job: ResolvedJob, bounds: WorkerRange) -> str:
    group, batch = sharers(job), job.training.global_batch_size
    fits = [workers for workers in range(1, batch + 1) if batch % workers == 0 and workers % group == 0]
    near = sorted(fits, key=lambda workers: min(abs(workers - bounds.min), abs(workers - bounds.max)))[:2]
    these = f"; {' and '.join(map(str, sorted(near)))} would do" if near else ""
    return f"scaling.workers: no number from {bounds.min} to {bounds.max} is possible: {_why(job)}{these}"


def _check_range(job: ResolvedJob) -> None:
    """Raises SpecError where the numbers would depend on how many workers there were when."""
    if job.training.deterministic:
        raise SpecError(
            "training.deterministic: the same bits each time need the same number of workers each time; give scaling.workers"
            " a number, or write deterministic: false"
        )
    if job.model.normalizes_over_shares:
        raise SpecError(over_shares("model.norm: batch"))


def over_shares(what: str) -> str:
    """A sentence on batch normalization where the number of workers may change."""
    return (
        f"{what}: batch normalization computes with each worker's share, so the model would depend on how many workers there"
        " were when; use group or layer normalization, or give scaling.workers a number"
    )
