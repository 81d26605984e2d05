"""The batch arithmetic: exact, or refused with sizes that are exact."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.planning.batch import split_batch


@pytest.mark.parametrize(
    ("global_batch_size", "workers", "micro", "split"),
    [
        (64, 1, None, (64, 1)),
        (64, 4, None, (16, 1)),
        (64, 4, 16, (16, 1)),
        (64, 4, 4, (4, 4)),
        (64, 64, None, (1, 1)),
        (7, 7, 1, (1, 1)),
        (30, 2, 5, (5, 3)),
        (1, 1, 1, (1, 1)),
    ],
)
def test_a_worker_takes_its_share_in_micro_batches(global_batch_size, workers, micro, split):
    made = split_batch(global_batch_size, workers, micro)
    assert (made.micro_batch_size, made.accumulation_steps) == split
    assert type(made.accumulation_steps) is int


@pytest.mark.parametrize(
    ("batch", "workers", "named"), [(10, 4, "8 or 12"), (6, 5, "5 or 10"), (3, 5, "5 or 10")]
)
def test_the_nearest_sizes_are_named(batch, workers, named):
    with pytest.raises(SpecError, match=f"; {named} can$"):
        split_batch(batch, workers, None)


@given(st.integers(1, 512), st.integers(1, 64), st.none() | st.integers(1, 512))
def test_micro_times_workers_times_accumulation_is_global_or_refused(batch, workers, micro):
    fits = batch % workers == 0 and (micro is None or (batch // workers) % micro == 0)
    try:
        made = split_batch(batch, workers, micro)
    except SpecError:
        assert not fits
    else:
        assert fits
        assert made.micro_batch_size * workers * made.accumulation_steps == batch
        assert made.micro_batch_size == (micro or batch // workers)


@given(st.integers(1, 512), st.integers(1, 64))
def test_the_sizes_that_a_refusal_names_are_taken(batch, workers):
    assume(batch % workers)
    with pytest.raises(SpecError) as refused:
        split_batch(batch, workers, None)
    named = re.search(r"; (\d+) or (\d+) can$", str(refused.value))
    for size in map(int, named.groups()):
        assert split_batch(size, workers, None).micro_batch_size * workers == size


@given(st.integers(1, 512), st.integers(1, 512))
def test_the_micro_batch_that_a_refusal_names_is_taken_and_is_the_nearest(batch, micro):
    assume(batch % micro)
    with pytest.raises(SpecError) as refused:
        split_batch(batch, 1, micro)
    named = int(re.search(r"; (\d+) does$", str(refused.value))[1])
    split_batch(batch, 1, named)
    between = range(min(named, micro) + 1, max(named, micro))
    assert all(batch % size for size in between)
