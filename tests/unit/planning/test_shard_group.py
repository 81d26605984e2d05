"""Groups of workers that share one copy: a number in the plan, and a sentence where there can be none."""

import pytest
from pydantic import ValidationError

from orchestrator.errors import SpecError
from orchestrator.planning.plan import ResolvedJob
from orchestrator.planning.shard_group import check_shard_group, with_shard_group
from orchestrator.spec.profile import ClusterProfile
from orchestrator.spec.strategy import ZeroStrategy

EIGHT = {"name": "eight", "cpus": 64, "memory": "512GB", "gpus": 8, "accelerator_type": "H100"}
FOUR = {"name": "four", "cpus": 64, "memory": "512GB", "gpus": 4, "accelerator_type": "A100"}
GPU = {"workers": 16, "gpus_per_worker": 1}


def job(group, *, kind="fsdp", **scaling):
    stage = {"stage": 3} if kind == "zero" else {}
    return ResolvedJob.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "in_features": 2, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 1},
            "strategy": {"kind": kind, "shard_group": group, **stage},
            "scaling": scaling,
        }
    )


def cluster(*groups):
    return ClusterProfile.model_validate(
        {
            "name": "gpus",
            "kind": "ray",
            "address": "http://head:8265",
            "storage": "/all",
            "node_groups": groups,
        }
    )


@pytest.mark.parametrize("kind", ["fsdp", "zero"])
def test_node_becomes_the_workers_that_a_node_takes(kind):
    made = with_shard_group(job("node", kind=kind, **GPU), cluster(EIGHT))
    assert made.strategy.shard_group == 8
    check_shard_group(made)


@pytest.mark.parametrize(
    ("scaling", "groups", "number"),
    [
        ({**GPU, "accelerator_type": "A100"}, (EIGHT, FOUR), 4),
        ({**GPU, "workers": 4}, (EIGHT,), 4),
        ({"workers": 8, "cpus_per_worker": 16}, (EIGHT,), 4),
        ({"workers": 8, "cpus_per_worker": 1, "memory_per_worker": "256GB"}, (EIGHT,), 2),
    ],
)
def test_the_number_is_of_the_nodes_that_can_take_the_workers(scaling, groups, number):
    assert with_shard_group(job("node", **scaling), cluster(*groups)).strategy.shard_group == number


def test_this_machine_is_one_node():
    local = ClusterProfile(name="local", kind="local")
    assert with_shard_group(job("node", workers=4), local).strategy.shard_group == 4


def test_a_number_stays():
    assert with_shard_group(job(2, workers=4), cluster()).strategy.shard_group == 2
    assert with_shard_group(job(None, workers=4), cluster()).strategy.shard_group is None


@pytest.mark.parametrize(
    ("scaling", "groups", "says"),
    [
        (GPU, (), "profile gpus has no node group that says how many"),
        (GPU, (EIGHT, FOUR), "has node groups that take 4 or 8 of these workers"),
        ({**GPU, "placement": "spread"}, (EIGHT,), "goes with scaling.placement pack"),
    ],
)
def test_where_a_node_is_not_known_a_number_is_asked_for(scaling, groups, says):
    with pytest.raises(SpecError, match=r"strategy\.shard_group") as refused:
        with_shard_group(job("node", **scaling), cluster(*groups))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        (3, "groups of 3 do not divide scaling.workers 4; these do: 1, 2, 4"),
        (8, "groups of 8 do not divide scaling.workers 4"),
        ("node", "give the number"),
    ],
)
def test_groups_that_workers_can_not_be_put_into_are_refused(group, says):
    with pytest.raises(SpecError) as refused:
        check_shard_group(job(group, workers=4))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stage": 2, "shard_group": 2}, "strategy.shard_group needs strategy.stage 3"),
        ({"stage": 1, "quantized_gradients": True}, "strategy.quantized_gradients needs strategy.stage 3"),
        ({"stage": 3, "shard_group": 1}, "a whole copy on each worker"),
    ],
)
def test_zero_takes_groups_in_stage_3_only(fields, says):
    with pytest.raises(ValidationError, match=says):
        ZeroStrategy.model_validate(fields)
