import pytest
from cluster_cases import kubernetes_profile, plan, ray_profile
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clusters.kubernetes.request import plan_to_rayjob
from orchestrator.clusters.local.request import plan_to_process
from orchestrator.clusters.shared.capacity import (
    fits,
    nodes_for,
    waiting,
    waiting_lines,
    workers_per_node,
)
from orchestrator.errors import ResourcesError, SpecError
from orchestrator.planning.memory import WAITING_PROCESS_BYTES
from orchestrator.spec.profile import ClusterProfile


def _plan(**scaling):
    return plan(scaling=scaling, training={"max_steps": 10, "global_batch_size": scaling.get("workers", 1)})


def _groups(*groups):
    return kubernetes_profile(node_groups=[{"memory": "64GB", "cpus": 8, **group} for group in groups])


def test_a_plan_that_fits_says_on_how_many_nodes():
    profile = _groups({"name": "cpu", "max": 4})
    assert nodes_for(_plan(workers=17), profile) == {"cpu": 3}
    assert nodes_for(_plan(workers=3, placement="spread"), profile) == {"cpu": 3}
    assert nodes_for(_plan(workers=9, placement="spread"), profile) == {"cpu": 4}


def test_too_many_workers_are_refused_with_the_arithmetic():
    profile = _groups({"name": "gpu", "gpus": 4, "max": 2})
    with pytest.raises(ResourcesError) as caught:
        fits(_plan(workers=16, gpus_per_worker=1, cpus_per_worker=2), profile)
    assert str(caught.value) == (
        "cluster prod can never hold the job: asked for 32 CPU + 16 GPU (16 workers × 2 CPU + 1 GPU);"
        " largest node 8 CPU + 4 GPU + 64GB (gpu, 4 workers); total 16 CPU + 8 GPU + 128GB (8 workers);"
        " lower scaling.workers to 8 or raise node_groups.max"
    )


def test_a_worker_larger_than_any_node_is_refused():
    with pytest.raises(
        ResourcesError, match=r"asked for 1 CPU \+ 100GB .*\(0 workers\); ask for less for each"
    ):
        fits(_plan(memory_per_worker="100GB"), _groups({"name": "cpu", "max": 9}))


def test_labels_and_accelerators_that_no_group_has_are_refused_with_those_that_there_are():
    profile = _groups({"name": "a", "labels": {"zone": "x"}, "gpus": 1, "accelerator_type": "L4"})
    with pytest.raises(
        SpecError, match=r"no node group of cluster prod has zone=y; its groups are a \(zone=x\)"
    ):
        fits(_plan(node_labels={"zone": "y"}), profile)
    with pytest.raises(SpecError, match=r"cluster prod has no H100; it has L4"):
        fits(_plan(accelerator_type="H100", gpus_per_worker=1), profile)


def test_workers_without_gpus_leave_gpu_nodes_alone_and_one_group_goes_before_two():
    profile = _groups(
        {"name": "gpu", "gpus": 8, "max": 9}, {"name": "few", "max": 1}, {"name": "many", "max": 3}
    )
    assert nodes_for(_plan(workers=8), profile) == {"few": 1}
    assert nodes_for(_plan(workers=9), profile) == {"many": 2}
    assert nodes_for(_plan(workers=60), profile) == {"gpu": 8}
    assert nodes_for(_plan(workers=104), profile) == {"few": 1, "many": 3, "gpu": 9}


@pytest.mark.parametrize(
    ("scaling", "reader_cpus", "offered", "spare"),
    [
        ({"workers": 8}, 0, 0, None),
        ({"workers": 8}, 1, 0, 0),
        ({"workers": 8}, 1, 1, None),
        ({"workers": 7}, 1, 0, None),
        ({"workers": 2, "placement": "spread"}, 7, 0, None),
        ({"workers": 2, "placement": "spread"}, 7.5, 0, 7),
        ({"workers": 9}, 4, 0, None),
        ({"workers": 9}, 5, 0, 4),
    ],
)
def test_read_tasks_that_no_node_has_room_for_are_refused(scaling, reader_cpus, offered, spare):
    made = plan(
        scaling=scaling,
        data={"train": {"kind": "builtin", "name": "breast_cancer"}, "reader_cpus": reader_cpus},
        training={"max_steps": 10, "global_batch_size": scaling["workers"]},
    )
    profile = kubernetes_profile(head={"offered_cpus": offered})
    if spare is None:
        fits(made, profile)
        return
    with pytest.raises(
        ResourcesError, match=rf"beside the workers no node of cluster prod has more than {spare} left"
    ):
        fits(made, profile)


def test_a_profile_that_says_nothing_of_its_nodes_takes_everything():
    assert nodes_for(_plan(workers=1000), ray_profile()) == {}


@given(
    workers=st.integers(1, 64),
    cpus=st.sampled_from([0.1, 0.5, 1, 2, 3]),
    groups=st.lists(st.tuples(st.integers(1, 32), st.integers(1, 5)), min_size=1, max_size=4),
    placement=st.sampled_from(["pack", "spread"]),
)
def test_chosen_nodes_hold_all_workers_and_are_no_more_than_there_are(workers, cpus, groups, placement):
    profile = _groups(
        *({"name": f"g{n}", "cpus": size, "max": most} for n, (size, most) in enumerate(groups))
    )
    wanted = _plan(workers=workers, cpus_per_worker=cpus, placement=placement)
    by_name = {group.name: group for group in profile.node_groups}
    rooms = {name: workers_per_node(wanted.job.scaling, group) for name, group in by_name.items()}
    if sum(rooms[name] * group.max for name, group in by_name.items()) < workers:
        with pytest.raises(ResourcesError):
            fits(wanted, profile)
        return
    nodes = nodes_for(wanted, profile)
    assert all(0 < count <= by_name[name].max for name, count in nodes.items())
    assert sum(rooms[name] * count for name, count in nodes.items()) >= workers


def _elastic(least, most):
    workers = {"min": least, "max": most}
    return plan(scaling={"workers": workers}, training={"max_steps": 10, "global_batch_size": 48})


def test_of_a_range_there_is_to_be_room_for_the_most_and_must_be_for_the_fewest():
    profile = _groups({"name": "cpu", "max": 2})
    assert nodes_for(_elastic(2, 12), profile) == {"cpu": 2}
    assert nodes_for(_elastic(2, 48), profile) == {"cpu": 2}
    assert nodes_for(_elastic(2, 8), profile) == {"cpu": 1}
    with pytest.raises(
        ResourcesError, match=r"\(24 workers × 1 CPU\).* lower scaling\.workers\.min to 16 or"
    ):
        fits(_elastic(24, 48), profile)


def _with_spares(workers, spares):
    return plan(
        scaling={"workers": workers},
        training={"max_steps": 10, "global_batch_size": workers},
        recovery={"spare_workers": spares},
    )


def test_spare_workers_are_refused_where_none_can_be_held(tmp_path):
    profile = ray_profile(node_groups=[{"name": "cpu", "cpus": 4, "memory": "8GB", "max": 2}])
    fits(_with_spares(6, 2), profile)
    with pytest.raises(
        ResourcesError, match=r"^recovery.spare_workers: 3: cluster \S+ has room for 8 workers in all, and 6"
    ):
        fits(_with_spares(6, 3), profile)
    with pytest.raises(
        SpecError, match=r"^recovery.spare_workers: 1: a run on Kubernetes has pods for its own workers"
    ):
        plan_to_rayjob(_with_spares(2, 1), kubernetes_profile())
    with pytest.raises(SpecError, match=r"^recovery.spare_workers: 1: this machine has no other node"):
        plan_to_process(_with_spares(2, 1), 1, ())


def test_processes_that_wait_for_a_restart_are_counted_on_each_node():
    each = WAITING_PROCESS_BYTES
    profile = _groups({"name": "cpu", "max": 4})
    [packed] = waiting(_plan(workers=12), profile)
    assert (packed.processes, packed.bytes, packed.warning) == (8, 8 * each, "")
    sizes = {"scaling": {"workers": 12}, "training": {"max_steps": 10, "global_batch_size": 12}}
    [with_deepspeed] = waiting(plan(**sizes, strategy={"kind": "zero"}), profile)
    assert with_deepspeed.bytes > packed.bytes
    [spread] = waiting(_plan(workers=6, placement="spread"), profile)
    assert spread.processes == 2
    small, rest = waiting(
        _plan(workers=10), _groups({"name": "a", "max": 1}, {"name": "b", "cpus": 4, "max": 1})
    )
    assert (small.processes, rest.processes) == (8, 2)


def test_processes_that_wait_are_said_where_a_node_has_no_room_for_them():
    room = ray_profile(node_groups=[{"name": "cpu", "cpus": 4, "memory": "16GB", "max": 1}])
    [fitting] = waiting(_plan(workers=4, memory_per_worker="3500MB"), room)
    assert fitting.warning == ""
    [tight] = waiting(_plan(workers=4, memory_per_worker="4GB"), room)
    assert tight.warning.startswith("warning: 4 processes wait for a restart on a node of cpu: about ")
    assert "too little beside the 16GB of the workers: set recovery.warm_processes: false" in tight.warning


def test_what_waits_is_said_wherever_something_does(tmp_path):
    profile = _groups({"name": "cpu", "max": 4})
    without = plan(
        scaling={"workers": 2},
        training={"max_steps": 10, "global_batch_size": 2},
        recovery={"warm_processes": False},
    )
    local = ClusterProfile(name="here", kind="local", storage=str(tmp_path))
    assert waiting(without, profile) == waiting(_plan(workers=2), local) == []
    assert waiting_lines(without, profile) == waiting_lines(without, local) == []
    [said] = waiting_lines(_plan(workers=2), local)
    assert said.startswith(
        "after 30 s of training a process for each worker waits for a restart here, where memory is free"
    )
    [said] = waiting_lines(_plan(workers=2), ray_profile())
    assert said == "a process for each worker waits for a restart on its node: about 470MB each"
    [said] = waiting_lines(_plan(workers=2), profile)
    assert said.startswith("2 processes wait for a restart on a node of cpu")
    assert waiting(_plan(workers=2), ray_profile()) == []  # nobody knows its nodes
