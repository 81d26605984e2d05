"""Which sample is at which place: a pure function of (seed, epoch, data set, global batch). Needs numpy alone.

How it works, for N samples in row groups and a global batch of B:

1. An epoch puts the row groups in an order of its own and lays their rows end to end: N places.
2. The N places are cut into L equal, contiguous *lanes* (lengths differ by at most one). Every step takes B/L
   rows from each lane: slot ``i`` of the batch comes from lane ``i * L // B``. A worker that takes a contiguous
   share of the slots therefore reads only its own lanes, and the batch is the same for any number of workers.
3. Within a lane, rows are shuffled inside windows of a bounded number of rows.

Nothing of size N is ever made: memory is the windows in use and a few numbers a row group. Any step can be
found without looking at those before it. Lanes end in the same step, the epoch's last; its missing rows are
padding (``tail="pad"``: each sample once an epoch) or the step is left out (``"drop"``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.data.hashing import mix, permutation

MAX_LANES = 64
SMALL_BYTES = 64 * 2**20
"""Up to this, all samples are shuffled together in one lane: reading them on every worker costs little."""
OPEN_BYTES = 2**29
"""Row groups that all lanes together hold open, at most."""
WINDOW_BYTES = 2**27
"""Rows that are shuffled together, at most, whatever ``shuffle_window_rows`` says."""


@dataclass(frozen=True)
class OrderShape:
    """The numbers that shape an order; all follow from the data set and the job, none from the workers."""

    samples: int
    batch: int
    """B: samples of a global batch."""
    lanes: int
    """L: divides B."""
    window: int
    """Rows of a lane that are shuffled together; a multiple of B/L unless it spans the lane."""
    shuffle: bool
    drop_tail: bool

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.samples // self.batch if self.drop_tail else -(-self.samples // self.batch)

    @property
    def lane_batch(self) -> int:
        """Rows of a lane in one step: B/L."""
        return self.batch // self.lanes


def shape_order(
    group_rows: np.ndarray, *, row_bytes: float, batch: int, window_rows: int, shuffle: bool, drop_tail: bool
) -> OrderShape:
    """Choose lanes and window.

    Args:
        group_rows: training rows of each row group.
        row_bytes: bytes of a row as it is held while it waits in a window.
        batch: the global batch.
        window_rows: rows to shuffle together, over all lanes.
        shuffle: without it there is one lane, in the order of the files.
        drop_tail: leave an incomplete last batch out.
    """
    groups = group_rows[group_rows > 0]
    samples = int(groups.sum())
    window_rows = max(1, min(window_rows, int(WINDOW_BYTES / max(row_bytes, 1))))
    if not shuffle:
        return OrderShape(samples, batch, 1, 1, False, drop_tail)
    if samples <= window_rows and samples * row_bytes <= SMALL_BYTES:
        return OrderShape(samples, batch, 1, max(1, samples), True, drop_tail)
    open_groups = int(OPEN_BYTES / max(1.0, float(groups.max()) * row_bytes))
    most = max(1, min(MAX_LANES, batch, open_groups, len(groups) // 2))
    lanes = max(lane for lane in range(1, most + 1) if batch % lane == 0)
    lane_batch = batch // lanes
    window = max(1, window_rows // lanes // lane_batch) * lane_batch
    return OrderShape(samples, batch, lanes, window, True, drop_tail)


@dataclass(frozen=True)
class Places:
    """Where the rows of some slots of some steps lie; arrays of shape (steps, slots)."""

    group: np.ndarray
    """Row group, int64."""
    nth: np.ndarray
    """Which of the group's training rows, int64."""
    real: np.ndarray
    """False where the slot is padding; the row is then the last of the lane."""


class RowSpace:
    """The rows of groups laid end to end, in the groups' given order."""

    def __init__(self, groups: np.ndarray, group_rows: np.ndarray) -> None:
        self.groups = groups
        self._ends = np.cumsum(group_rows[groups])
        self._starts = self._ends - group_rows[groups]

    def find(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group of each place, and which of the group's rows it is."""
        order = np.searchsorted(self._ends, place, side="right")
        return self.groups[order], place - self._starts[order]

    def between(self, first: int, last: int) -> set[int]:
        """The groups from one place to another, both included."""
        low, high = np.searchsorted(self._ends, (first, last), side="right")
        return set(self.groups[low : high + 1].tolist())


class EpochOrder:
    """The order of one epoch."""

    def __init__(self, shape: OrderShape, group_rows: np.ndarray, *, seed: int, epoch: int) -> None:
        self.shape = shape
        self._key = mix(seed, epoch)
        groups = np.flatnonzero(group_rows)
        if shape.shuffle:
            groups = groups[permutation(mix(self._key, 1), len(groups))]
        self._space = RowSpace(groups, group_rows)
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    def lane(self, number: int) -> tuple[int, int]:
        """First and one past the last place of a lane."""
        shape = self.shape
        return number * shape.samples // shape.lanes, (number + 1) * shape.samples // shape.lanes

    def locate(self, first_step: int, stop_step: int, first_slot: int, stop_slot: int) -> Places:
        """Where the rows of slots [first_slot, stop_slot) of the epoch's steps [first_step, stop_step) lie."""
        shape, size = self.shape, (stop_step - first_step, stop_slot - first_slot)
        place, real = np.empty(size, dtype=np.int64), np.empty(size, dtype=bool)
        steps = np.arange(first_step, stop_step, dtype=np.int64)[:, None]
        for number in range(first_slot // shape.lane_batch, -(-stop_slot // shape.lane_batch)):
            base = number * shape.lane_batch
            slots = slice(
                max(base, first_slot) - first_slot, min(base + shape.lane_batch, stop_slot) - first_slot
            )
            within = np.arange(slots.start, slots.stop, dtype=np.int64) + first_slot - base
            position = steps * shape.lane_batch + within
            start, stop = self.lane(number)
            real[:, slots] = position < stop - start
            place[:, slots] = start + self._shuffled(number, np.minimum(position, stop - start - 1))
        group, nth = self._space.find(place)
        return Places(group, nth, real)

    def open_groups(self, step: int, first_slot: int, stop_slot: int) -> set[int]:
        """Row groups that those slots need from the step on, up to the end of the windows that it is in."""
        shape = self.shape
        needed: set[int] = set()
        for number in range(first_slot // shape.lane_batch, -(-stop_slot // shape.lane_batch)):
            start, stop = self.lane(number)
            first = start + step * shape.lane_batch // shape.window * shape.window
            last = min(first + shape.window, stop) - 1
            if first <= last:
                needed |= self._space.between(first, last)
        return needed

    def _shuffled(self, lane: int, position: np.ndarray) -> np.ndarray:
        """Positions in a lane after the shuffle inside its windows."""
        shape = self.shape
        if shape.window == 1:
            return position
        start, stop = self.lane(lane)
        out = np.empty_like(position)
        window = position // shape.window
        for number in range(int(window.min()), int(window.max()) + 1):
            inside = window == number
            first = number * shape.window
            order = self._window(lane, number, min(shape.window, stop - start - first))
            out[inside] = first + order[position[inside] - first]
        return out

    def _window(self, lane: int, number: int, size: int) -> np.ndarray:
        cached = self._windows.get((lane, number))
        if cached is None:
            for old in [key for key in self._windows if key[0] == lane and key[1] < number - 1]:
                del self._windows[old]
            cached = permutation(mix(self._key, 2, lane, number), size)
            self._windows[lane, number] = cached
        return cached
