import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.hashing import feistel, mix, permutation
from orchestrator.data.order import EpochOrder, OrderShape, RowSpace, shape_order

GROUPS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any)


@st.composite
def shapes(draw) -> tuple[OrderShape, np.ndarray]:
    """Any groups with any lanes and windows that the order allows."""
    rows = np.array(draw(GROUPS), dtype=np.int64)
    batch = draw(st.integers(1, 48))
    samples = int(rows.sum())
    filled = int((rows > 0).sum())
    lanes = draw(st.sampled_from([n for n in range(1, min(batch, filled) + 1) if batch % n == 0]))
    window = draw(st.integers(1, 8)) * (batch // lanes)
    return OrderShape(
        samples, batch, lanes, window, draw(st.booleans()) or lanes > 1, draw(st.booleans())
    ), rows


def epoch_ids(shape: OrderShape, rows: np.ndarray, epoch: int, worlds: list[int]) -> list[np.ndarray]:
    """The ids of each step's real samples, slot by slot; the number of workers changes as ``worlds`` says."""
    starts = np.concatenate(([0], np.cumsum(rows)[:-1]))
    steps = []
    for step in range(shape.steps):
        world = worlds[step % len(worlds)]
        slots = []
        for rank in range(world):
            # Each asks anew: nothing is carried over from step to step.
            order = EpochOrder(shape, rows, seed=3, epoch=epoch)
            share = rank * shape.batch // world, (rank + 1) * shape.batch // world
            if share[0] == share[1]:
                continue
            places = order.locate(step, step + 1, *share)
            slots.append(np.where(places.real, starts[places.group] + places.nth, -1)[0])
        steps.append(np.concatenate(slots))
    return steps


@given(shapes(), st.lists(st.integers(1, 7), min_size=1, max_size=4))
@settings(max_examples=150)
def test_every_sample_comes_once_an_epoch_in_the_same_batches_for_any_workers(made, worlds):
    shape, rows = made
    alone, changing = epoch_ids(shape, rows, 0, [1]), epoch_ids(shape, rows, 0, worlds)
    for one, other in zip(alone, changing, strict=True):
        np.testing.assert_array_equal(one, other)
    seen = np.concatenate([*alone, np.empty(0, dtype=np.int64)])
    real = seen[seen >= 0]
    assert len(np.unique(real)) == len(real)
    if shape.drop_tail:
        assert len(seen) == len(real) == shape.samples // shape.batch * shape.batch
    else:
        np.testing.assert_array_equal(np.sort(real), np.arange(shape.samples))
        # Padding is in the last step only.
        assert all((step >= 0).all() for step in alone[:-1])


@given(shapes(), st.data())
@settings(max_examples=60)
def test_groups_that_are_let_go_are_not_needed_before_the_window_ends(made, data):
    shape, rows = made
    if shape.steps == 0:
        return
    step = data.draw(st.integers(0, shape.steps - 1))
    order = EpochOrder(shape, rows, seed=1, epoch=2)
    window_steps = max(1, shape.window // shape.lane_batch)
    stop = min(shape.steps, (step // window_steps + 1) * window_steps)
    places = order.locate(step, stop, 0, shape.batch)
    assert set(places.group[places.real].tolist()) <= order.open_groups(step, 0, shape.batch)


def test_epochs_and_seeds_have_orders_of_their_own():
    rows = np.full(20, 10)
    shape = shape_order(rows, row_bytes=4, batch=10, window_rows=1000, shuffle=True, drop_tail=False)
    orders = {
        tuple(EpochOrder(shape, rows, seed=seed, epoch=epoch).locate(0, 1, 0, 10).nth[0])
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_without_shuffle_samples_come_as_they_lie():
    rows = np.array([3, 0, 5, 2])
    shape = shape_order(rows, row_bytes=4, batch=4, window_rows=1000, shuffle=False, drop_tail=False)
    assert np.concatenate(epoch_ids(shape, rows, 5, [2])).tolist() == [*range(10), -1, -1]


def test_a_worker_reads_its_own_lanes_only():
    """Two workers share at most the row groups on the border between their lanes."""
    rows = np.full(512, 1000)
    shape = shape_order(rows, row_bytes=4000, batch=256, window_rows=65_536, shuffle=True, drop_tail=False)
    order = EpochOrder(shape, rows, seed=0, epoch=0)
    read = [
        set(np.unique(order.locate(0, shape.steps, rank * 64, (rank + 1) * 64).group).tolist())
        for rank in range(4)
    ]
    assert sum(len(groups) for groups in read) <= len(rows) + 3


def test_the_shuffle_is_near_a_full_one():
    """How far apart rows come that lie next to each other, as a share of a full shuffle's (a third of the rows)."""
    rows = np.full(400, 500)
    shape = shape_order(rows, row_bytes=2000, batch=64, window_rows=65_536, shuffle=True, drop_tail=True)
    order = EpochOrder(shape, rows, seed=0, epoch=0)
    places = order.locate(0, shape.steps, 0, 64)
    ids = (places.group * 500 + places.nth).reshape(-1)
    position = np.empty(shape.samples)
    position[:] = np.nan
    position[ids] = np.arange(len(ids))
    apart = np.abs(np.diff(position))
    quality = np.nanmean(apart) / (len(ids) / 3)
    assert quality > 0.2
    # and within a batch, samples come from all over the files
    groups_in_batch = np.mean([len(np.unique(batch)) for batch in places.group])
    assert groups_in_batch > 50


def test_a_billion_rows_take_no_memory_to_order():
    rows = np.full(10_000, 100_000)
    tracemalloc.start()
    shape = shape_order(rows, row_bytes=4000, batch=1024, window_rows=65_536, shuffle=True, drop_tail=False)
    order = EpochOrder(shape, rows, seed=0, epoch=0)
    order.locate(shape.steps - 10, shape.steps, 0, 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shape.samples == 10**9
    assert peak < 20 * 2**20


@given(st.integers(0, 2**63), st.integers(1, 3000))
@settings(max_examples=60)
def test_feistel_is_a_permutation(key, size):
    np.testing.assert_array_equal(np.sort(feistel(key, size, np.arange(size))), np.arange(size))


@given(shapes(), st.data())
@settings(max_examples=80)
def test_the_groups_to_hold_are_those_of_the_windows_that_a_step_is_in(made, data):
    """No group too many: each held one takes memory until the window's end."""
    shape, rows = made
    if shape.steps == 0:
        return
    order = EpochOrder(shape, rows, seed=1, epoch=2)
    window_steps = shape.window // shape.lane_batch
    for _ in range(3):
        step = data.draw(st.integers(0, shape.steps - 1))
        first = data.draw(st.integers(0, shape.batch - 1))
        stop = data.draw(st.integers(first + 1, shape.batch))
        begin = step // window_steps * window_steps
        lanes = first // shape.lane_batch * shape.lane_batch, -(-stop // shape.lane_batch) * shape.lane_batch
        places = order.locate(begin, begin + window_steps, *lanes)
        assert order.open_groups(step, first, stop) == set(places.group[places.real].tolist())


@given(GROUPS, st.randoms(use_true_random=False), st.data())
def test_rows_laid_end_to_end_are_found_again(rows, random, data):
    groups = [number for number, count in enumerate(rows) if count]
    random.shuffle(groups)
    laid = [(group, nth) for group in groups for nth in range(rows[group])]
    space = RowSpace(np.array(groups), np.array(rows))
    group, nth = space.find(np.arange(len(laid)))
    assert list(zip(group.tolist(), nth.tolist(), strict=True)) == laid
    stretches = [
        sorted((data.draw(st.integers(0, len(laid) - 1)), data.draw(st.integers(0, len(laid) - 1))))
        for _ in range(data.draw(st.integers(0, 4)))
    ]
    first, last = np.array(stretches, dtype=np.int64).reshape(-1, 2).T
    crossed = {laid[place][0] for begin, end in stretches for place in range(begin, end + 1)}
    assert space.between(first, last) == crossed


ROWS = np.array([5, 0, 17, 40, 3, 1, 29, 8])


@pytest.mark.parametrize(
    ("lanes", "window", "shuffle", "drop_tail", "digest"),
    [
        (1, 1, False, False, "22282694c1914b69"),
        (1, 103, True, False, "52c47b333e08dd98"),
        (3, 8, True, False, "4882c81d0dccb620"),
        (4, 9, True, True, "117461a9663513fc"),
        (12, 2, True, False, "bd5db2c5b9243716"),
        (6, 6, True, False, "d1bf32a9298f0a1a"),
        (2, 12, True, False, "22535384b307c4c0"),
    ],
)
def test_orders_of_whole_epochs_never_change(lanes, window, shuffle, drop_tail, digest):
    """A resumed run must find the order that it left; group, row and padding of every slot are in the digest."""
    shape = OrderShape(int(ROWS.sum()), 12, lanes, window, shuffle, drop_tail)
    order = EpochOrder(shape, ROWS, seed=5, epoch=2)
    whole = order.locate(0, shape.steps, 0, shape.batch)
    parts = (whole.group, whole.nth, whole.real)
    assert all(part.shape == (shape.steps, shape.batch) for part in parts)
    assert hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()[:16] == digest
    again = order.locate(1, 3, 5, 11)  # also from what is remembered
    for part, of_whole in zip((again.group, again.nth, again.real), parts, strict=True):
        np.testing.assert_array_equal(part, of_whole[1:3, 5:11])


@pytest.mark.parametrize(
    ("rows", "given", "lanes", "window"),
    [
        # up to 64 MiB and no more rows than a window: all in one
        ([100] * 10, {}, 1, 1000),
        ([100, 0, 900], {}, 1, 1000),
        ([100] * 10, {"row_bytes": 2**26 / 1000}, 1, 1000),
        ([1], {}, 1, 1),
        ([0, 0], {}, 1, 1),
        # more than that: half as many lanes as groups, so many that they divide the batch
        ([100] * 10, {"row_bytes": 2**26 / 1000 + 1}, 4, 240),
        ([100] * 11, {}, 4, 240),
        ([1000] * 20, {"window_rows": 6400}, 8, 800),
        ([1000, 1], {"batch": 1}, 1, 1000),
        ([1000, 1], {"batch": 1, "window_rows": 0}, 1, 1),
        ([1000] * 3, {"batch": 4}, 1, 1000),
        ([1000] * 4, {"batch": 4}, 2, 500),
        ([1000, 0, 1000, 0, 0, 1000], {"batch": 4}, 1, 1000),
        # at most 64, and at most the batch
        ([1000] * 300, {"window_rows": 65_536}, 64, 1024),
        ([1000] * 300, {"window_rows": 65_536, "batch": 128}, 64, 1024),
        ([1000] * 300, {"window_rows": 65_536, "batch": 96}, 48, 1364),
        ([1000] * 300, {"window_rows": 65_536, "batch": 7}, 7, 9362),
        # at most as many as hold 512 MiB of groups open; windows of 128 MiB at most
        ([1000] * 300, {"window_rows": 65_536, "row_bytes": 2**29 / 5000}, 4, 304),
        ([1000] * 300 + [2000], {"window_rows": 65_536, "row_bytes": 2**29 / 5000}, 2, 608),
        ([1000] * 300, {"window_rows": 65_536, "row_bytes": 2.0**40}, 1, 64),
        ([1000] * 300, {"window_rows": 10**9, "row_bytes": 1000.0}, 64, 2097),
        # bytes that nobody knows, and windows smaller than a step
        ([1000] * 300, {"window_rows": 65_536, "row_bytes": 0.0}, 64, 1024),
        ([10**6] * 300, {"window_rows": 10**9, "row_bytes": 0.0}, 64, 2**21),
        ([1000] * 300, {"window_rows": 10}, 64, 1),
        ([1000] * 300, {"window_rows": 0}, 64, 1),
    ],
)
@pytest.mark.parametrize("drop_tail", [False, True])
def test_lanes_and_windows(rows, given, lanes, window, drop_tail):
    asked = {"row_bytes": 100.0, "batch": 64, "window_rows": 1000, **given}
    shape = shape_order(np.array(rows), shuffle=True, drop_tail=drop_tail, **asked)
    assert shape == OrderShape(sum(rows), asked["batch"], lanes, window, True, drop_tail)
    unshuffled = shape_order(np.array(rows), shuffle=False, drop_tail=drop_tail, **asked)
    assert unshuffled == OrderShape(sum(rows), asked["batch"], 1, 1, False, drop_tail)


def test_windows_that_are_behind_are_let_go():
    """64 windows of half a megabyte each: three may be held at once."""
    rows = np.full(4096, 1024)
    order = EpochOrder(OrderShape(4096 * 1024, 64, 1, 65_536, True, False), rows, seed=0, epoch=0)
    tracemalloc.start()
    for step in range(0, order.shape.steps, 1024):
        order.locate(step, step + 1, 0, 64)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 3 * 65_536 * 8


def test_groups_of_windows_that_are_behind_are_forgotten():
    rows = np.full(65_536, 8)
    order = EpochOrder(OrderShape(65_536 * 8, 64, 1, 65_536, True, False), rows, seed=0, epoch=0)
    tracemalloc.start()
    order.open_groups(0, 0, 64)
    one = tracemalloc.get_traced_memory()[0]
    for step in range(0, order.shape.steps, 1024):
        order.open_groups(step, 0, 64)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 3 * one


def test_orders_never_change():
    """A resumed run must find the order that it left, on any machine and with any later version."""
    assert mix(1, 2, 3) == 0xD0734750FDE362B3
    assert permutation(7, 8).tolist() == [4, 2, 0, 3, 6, 5, 1, 7]
    assert feistel(7, 10, np.arange(10)).tolist() == [5, 8, 9, 2, 7, 0, 1, 4, 6, 3]


@pytest.mark.parametrize("batch", [96, 64, 60, 7])
def test_lanes_divide_the_batch(batch):
    rows = np.full(300, 10_000)
    shape = shape_order(rows, row_bytes=4000, batch=batch, window_rows=65_536, shuffle=True, drop_tail=False)
    assert batch % shape.lanes == 0
    assert shape.window % shape.lane_batch == 0
