"""Sizes that a group of workers may have: what each takes, and what is refused."""

import pytest
from cluster_cases import plan
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.planning.plan import Plan

CNN = {"family": "cnn", "size": "debug", "in_channels": 1, "outputs": 2, "image_size": 8}


def elastic(least, most, batch, **sections):
    training = {"max_steps": 100, "global_batch_size": batch, **sections.pop("training", {})}
    scaling = {"workers": {"min": least, "max": most}, **sections.pop("scaling", {})}
    return plan(training=training, scaling=scaling, **sections)


def numbers(made):
    return [(size.workers, size.micro_batch_size, size.accumulation_steps) for size in made.sizes]


def test_numbers_that_divide_the_global_batch_are_possible_with_no_larger_forward_than_the_largest_group_s():
    made = elastic(2, 7, 24)
    assert numbers(made) == [(2, 4, 3), (3, 4, 2), (4, 3, 2), (6, 4, 1)]
    assert (made.world_size, made.least_workers, made.micro_batch_size, made.accumulation_steps) == (
        6,
        2,
        4,
        1,
    )
    assert made.memory == made.sizes[-1].memory
    assert made.notes == (
        "scaling.workers: 2, 3, 4, 6; they must divide training.global_batch_size 24, so that every size takes the same batches",
    )
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_a_micro_batch_that_is_written_is_the_most():
    assert numbers(elastic(2, 6, 24, training={"micro_batch_size": 5})) == [
        (2, 4, 3),
        (3, 4, 2),
        (4, 3, 2),
        (6, 4, 1),
    ]
    assert numbers(elastic(2, 2, 24, training={"micro_batch_size": 12})) == [(2, 12, 1)]


def test_of_workers_that_share_a_model_only_whole_groups_are_possible():
    made = elastic(2, 12, 24, strategy={"kind": "fsdp", "shard_group": 4})
    assert [size.workers for size in made.sizes] == [4, 8, 12]
    with pytest.raises(
        SpecError,
        match=r"no number from 1 to 3 is possible: .* a multiple of strategy\.shard_group 4; 4 and 8",
    ):
        elastic(1, 3, 24, strategy={"kind": "fsdp", "shard_group": 4})


def test_smaller_groups_need_more_memory_where_the_model_is_sharded():
    sizes = elastic(1, 8, 64, strategy={"kind": "fsdp"}).sizes
    assert [size.memory.optimizer for size in sizes] == sorted(
        (size.memory.optimizer for size in sizes), reverse=True
    )
    warned = elastic(1, 8, 64, strategy={"kind": "fsdp"}, scaling={"memory_per_worker": "10KB"})
    assert any(note.startswith("warning: ") for note in warned.notes)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        (
            {"least": 5, "most": 5},
            "no number from 5 to 5 is possible: they must divide training.global_batch_size 24; 4 and 6 would",
        ),
        ({"least": 30, "most": 40}, "no number from 30 to 40 is possible"),
        (
            {"training": {"deterministic": True}},
            "training.deterministic: the same bits each time need the same number of workers",
        ),
        (
            {"strategy": {"kind": "zero", "deepspeed": {"train_micro_batch_size_per_gpu": 24}}},
            "the job file decides",
        ),
        ({"strategy": {"kind": "fsdp", "shard_group": "node"}}, "give the number"),
    ],
)
def test_what_can_t_be_had_with_a_changing_number_is_refused(sections, says):
    least, most = sections.pop("least", 1), sections.pop("most", 4)
    with pytest.raises(SpecError) as caught:
        elastic(least, most, 24, **sections)
    assert says in str(caught.value)


def test_batch_normalization_is_refused():
    with pytest.raises(
        SpecError, match=r"model\.norm: batch: batch normalization computes with each worker's share"
    ):
        elastic(1, 4, 24, model={**CNN, "norm": "batch"})
    assert elastic(1, 4, 24, model=CNN).sizes


def test_the_plan_of_one_size_is_that_of_a_fixed_number():
    made = elastic(2, 6, 24)
    three = made.with_workers(3)
    assert (three.world_size, three.micro_batch_size, three.accumulation_steps) == (3, 4, 2)
    assert three.sizes == () and three.job.scaling.workers == 3
    assert three.batch_equation == "global 24 = 3 workers × 4 micro × 2 accumulation"
    assert three.with_workers(3) is three
    assert [one.world_size for one in made.extremes] == [2, 6]
    assert three.extremes == (three,)
    with pytest.raises(ValueError, match="5 is none of the sizes"):
        made.with_workers(5)


@pytest.mark.parametrize(("room", "workers"), [(1, None), (2, 2), (5, 4), (6, 6), (100, 6)])
def test_the_largest_size_within_a_room(room, workers):
    assert elastic(2, 6, 24).largest_within(room) == workers
    fixed = plan(training={"max_steps": 100, "global_batch_size": 24}, scaling={"workers": 3})
    assert fixed.largest_within(room) == (3 if room >= 3 else None)


@given(
    least=st.integers(1, 20),
    more=st.integers(0, 20),
    batch=st.integers(1, 200),
    micro=st.none() | st.integers(1, 50),
)
def test_every_size_takes_the_global_batch_whole(least, more, batch, micro):
    try:
        made = elastic(least, least + more, batch, training={"micro_batch_size": micro})
    except SpecError:
        assert all(batch % workers for workers in range(least, least + more + 1))
        return
    bound = micro or made.micro_batch_size
    for size in made.sizes:
        assert size.workers * size.micro_batch_size * size.accumulation_steps == batch
        assert least <= size.workers <= least + more and size.micro_batch_size <= bound
    assert made.total_steps == 100
