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
from typing import Any

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
    most = max(1, min(MAX_LANES, open_groups, len(groups) // 2))
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

    def between(self, first: np.ndarray, last: np.ndarray) -> set[int]:
        """The groups that lie from one place to another, both included, of several such stretches."""
        low, high = np.searchsorted(self._ends, (first, last), side="right")
        counts = high - low + 1
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return set(self.groups[np.repeat(low, counts) + within].tolist())


class EpochOrder:
    """The order of one epoch."""

    def __init__(self, shape: OrderShape, group_rows: np.ndarray, *, seed: int, epoch: int) -> None:
        self.shape = shape
        self._key = mix(seed, epoch)
        groups = np.flatnonzero(group_rows)
        if shape.shuffle:
            groups = groups[permutation(mix(self._key, 1), len(groups))]
        self._space = RowSpace(groups, group_rows)
        bounds = np.arange(shape.lanes + 1, dtype=np.int64) * shape.samples // shape.lanes
        self._lane_starts, self._lane_rows = bounds[:-1], np.diff(bounds)
        self._windows: dict[tuple[int, int, int], np.ndarray] = {}
        self._open: dict[tuple[int, int, int], set[int]] = {}

    def locate(self, first_step: int, stop_step: int, first_slot: int, stop_slot: int) -> Places:
        """Where the rows of slots [first_slot, stop_slot) of the epoch's steps [first_step, stop_step) lie."""
        steps = np.arange(first_step, stop_step, dtype=np.int64)[:, None]
        lane, within = np.divmod(np.arange(first_slot, stop_slot, dtype=np.int64), self.shape.lane_batch)
        position, rows = steps * self.shape.lane_batch + within, self._lane_rows[lane]
        place = self._lane_starts[lane] + self._shuffled(lane, np.minimum(position, rows - 1))
        group, nth = self._space.find(place)
        return Places(group, nth, position < rows)

    def open_groups(self, step: int, first_slot: int, stop_slot: int) -> set[int]:
        """Row groups that those slots need from the step on, up to the end of the windows that it is in."""
        shape = self.shape
        window = step * shape.lane_batch // shape.window
        key = (window, first_slot, stop_slot)
        if key not in self._open:
            _forget_before(self._open, window - 1)
            lanes = slice(first_slot // shape.lane_batch, -(-stop_slot // shape.lane_batch))
            starts, stops = self._lane_starts[lanes], self._lane_starts[lanes] + self._lane_rows[lanes]
            first = starts + window * shape.window
            last = np.minimum(first + shape.window, stops) - 1
            self._open[key] = self._space.between(first[first <= last], last[first <= last])
        return self._open[key]

    def _shuffled(self, lane: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Positions (steps, slots) in the slots' lanes after the shuffle inside their windows."""
        size = self.shape.window
        if size == 1:
            return position
        out, window = np.empty_like(position), position // size
        row = np.broadcast_to(lane - lane[0], position.shape)
        for number in range(int(window.min()), int(window.max()) + 1):
            inside = window == number
            order = self._window(number, int(lane[0]), int(lane[-1]) + 1)
            out[inside] = number * size + order[row[inside], position[inside] - number * size]
        return out

    def _window(self, number: int, first_lane: int, stop_lane: int) -> np.ndarray:
        """The order of a window's rows in each of some lanes; what stands behind a lane's end means nothing."""
        key = (number, first_lane, stop_lane)
        if key not in self._windows:
            _forget_before(self._windows, number - 1)
            first, most = number * self.shape.window, self.shape.window
            sizes = np.clip(self._lane_rows[first_lane:stop_lane] - first, 0, most).tolist()
            orders = self._windows[key] = np.zeros((len(sizes), max(sizes)), dtype=np.int64)
            for index, size in enumerate(sizes):
                orders[index, :size] = permutation(mix(self._key, 2, first_lane + index, number), size)
        return self._windows[key]


def _forget_before(cache: dict[tuple[int, int, int], Any], window: int) -> None:
    for old in [key for key in cache if key[0] < window]:
        del cache[old]
