"""Training, chunk by chunk: a rank's slots of each global batch, with its windows' row groups read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from orchestrator.data.hashing import sample_seeds
from orchestrator.data.order import EpochOrder
from orchestrator.data.prepared import Prepared, PreparedSource
from orchestrator.data.reading.bad_samples import placed
from orchestrator.data.reading.chunks import by_step, most_steps, share_of
from orchestrator.data.reading.rows import RowReader
from orchestrator.data.transforms import Batch, apply_all
from orchestrator.planning.plan import Plan

TASK_BYTES = 2**27
"""A read task makes about as much, where windows are smaller."""


class TrainingChunks:
    """Training steps of one rank."""

    def __init__(self, prepared: Prepared, plan: Plan, *, rank: int, world_size: int) -> None:
        self._prepared, self._plan = prepared, plan
        self.stop = plan.total_steps
        batch = plan.job.training.global_batch_size
        first, stop = share_of(batch, rank, world_size)
        self.samples = stop - first
        self.most_steps = most_steps(self.samples, prepared.carried_bytes)
        self._sources: list[_SourceSlots] = []
        offset = 0
        for source in prepared.train:
            assert source.order is not None
            end = offset + source.order.batch
            low, high = max(first, offset), min(stop, end)
            if low < high:
                self._sources.append(
                    _SourceSlots(source, plan.job.training.seed, low - offset, high - offset)
                )
            offset = end

    def task_bounds(self, first_step: int) -> Iterator[tuple[int, int]]:
        """Cut the steps from one on into tasks of about ``TASK_BYTES``.

        A task reads whole shuffle windows, so it begins and ends where these do, and small ones are joined. A window
        that becomes much larger when decoded is cut: reading its encoded bytes again costs less than one task that
        fills the object store while the loop waits for another's.
        """
        shape = max((source.shape for source in self._sources), key=lambda shape: shape.samples)
        window = min(shape.steps, max(1, shape.window // shape.lane_batch))
        window_bytes = window * self.samples * self._prepared.carried_bytes
        joined, pieces = max(1, TASK_BYTES // window_bytes), max(1, round(window_bytes / TASK_BYTES))
        while first_step < self.stop:
            epoch, inside = divmod(first_step, shape.steps)
            if pieces == 1 and joined * window >= shape.steps:
                end = (epoch + joined * window // shape.steps) * shape.steps
            elif pieces == 1:
                end = epoch * shape.steps + min((inside // window + joined) * window, shape.steps)
            else:
                start = inside // window * window
                length = min(window, shape.steps - start)
                piece = -(-length // pieces)
                end = epoch * shape.steps + min(
                    start + ((inside - start) // piece + 1) * piece, start + length
                )
            yield first_step, min(end, self.stop)
            first_step = min(end, self.stop)

    def forget_before(self, step: int) -> None:
        """Let go of the rows that the step's windows don't need; of all, where there is no such step."""
        for source in self._sources:
            source.reader.keep(source.needed(step) if step < self.stop else set())

    def read(self, first_step: int, stop_step: int, last_step: int | None = None) -> Batch:
        """Steps [first_step, stop_step), transformed, with ``weight`` (0 for padding).

        Args:
            last_step: where this reader's work ends, so that it reads nothing ahead for what lies behind.
        """
        return self.fetch(first_step, stop_step, last_step)()

    def fetch(self, first_step: int, stop_step: int, last_step: int | None = None) -> Callable[[], Batch]:
        """Read what the steps need. What is returned does the rest, decoding and transforming, on any thread."""
        steps = stop_step - first_step
        last = self.stop if last_step is None else last_step
        parts = [source.fetch(first_step, stop_step, last) for source in self._sources]

        def decode() -> Batch:
            sources = [part() for part in parts]
            rows = sources[0] if len(sources) == 1 else _side_by_side(sources, steps)
            with placed(self._prepared.train):
                rows = apply_all(self._plan.job.data.transforms, self._prepared.fitted, rows, training=True)
            return by_step(rows, steps)

        return decode


class _SourceSlots:
    """The slots of one source that a rank has in each global batch."""

    def __init__(self, source: PreparedSource, seed: int, first_slot: int, stop_slot: int) -> None:
        assert source.order is not None
        self.shape, self._seed = source.order, seed
        self._slots = first_slot, stop_slot
        self.reader = RowReader(source)
        self._epochs: dict[int, EpochOrder] = {}

    def fetch(self, first_step: int, stop_step: int, last_step: int) -> Callable[[], Batch]:
        """Read what is needed; what is returned makes rows of shape (steps * slots, ...) of it."""
        per_epoch = self.shape.steps
        group, nth, real, epochs = [], [], [], []
        step = first_step
        while step < stop_step:
            epoch, inside = divmod(step, per_epoch)
            count = min(stop_step - step, per_epoch - inside)
            places = self._epoch(epoch).locate(inside, inside + count, *self._slots)
            group.append(places.group.ravel())
            nth.append(places.nth.ravel())
            real.append(places.real.ravel())
            epochs.append(np.full(places.real.size, epoch, dtype=np.int64))
            step += count
        fetched = self.reader.fetch(np.concatenate(group), np.concatenate(nth))
        self._read_ahead(stop_step, last_step)

        def decode() -> Batch:
            rows = fetched.decode()
            rows["sample_seed"] = sample_seeds(self._seed, np.concatenate(epochs), rows["sample_id"])
            real_rows = np.concatenate(real)
            rows["sample_id"] = np.where(real_rows, rows["sample_id"], -1)
            rows["weight"] *= real_rows
            return rows

        return decode

    def needed(self, step: int) -> set[int]:
        """Row groups that the step's windows need."""
        epoch, inside = divmod(step, self.shape.steps)
        return self._epoch(epoch).open_groups(inside, *self._slots)

    def _read_ahead(self, step: int, last_step: int) -> None:
        """Keep what the step's windows need, and of the next windows as large a part as these are used up.

        Windows of all lanes end in one step; read only then, the next ones would hold the loop up.
        """
        per_epoch, window = self.shape.steps, max(1, self.shape.window // self.shape.lane_batch)
        epoch, inside = divmod(step, per_epoch)
        start = inside // window * window
        end = min(start + window, per_epoch)
        needed = self.needed(step)
        if epoch * per_epoch + end >= last_step:
            self.reader.keep(needed)
            return
        epoch_after, inside_after = (epoch + 1, 0) if end == per_epoch else (epoch, end)
        following = sorted(self._epoch(epoch_after).open_groups(inside_after, *self._slots))
        self.reader.keep(needed.union(following))
        self.reader.load(following[: -(-len(following) * (inside - start) // (end - start))])

    def _epoch(self, number: int) -> EpochOrder:
        if number not in self._epochs:
            self._epochs = {n: order for n, order in self._epochs.items() if n >= number - 1}
            self._epochs[number] = EpochOrder(
                self.shape, self.reader.selection.counts, seed=self._seed, epoch=number
            )
        return self._epochs[number]


def _side_by_side(parts: list[Batch], steps: int) -> Batch:
    """The slots of several sources next to each other within each step."""
    joined = {}
    for name in parts[0]:
        shaped = [part[name].reshape(steps, -1, *part[name].shape[1:]) for part in parts]
        values = np.concatenate(shaped, axis=1)
        joined[name] = values.reshape(-1, *values.shape[2:])
    return joined
