"""How many workers share one copy of the model: a number in the plan, though a person may say ``node``."""

from __future__ import annotations

from orchestrator.errors import SpecError
from orchestrator.planning.plan import ResolvedJob
from orchestrator.spec.profile import ClusterProfile, NodeGroup
from orchestrator.spec.scaling import ScalingSpec


def with_shard_group(job: ResolvedJob, profile: ClusterProfile) -> ResolvedJob:
    """The job with ``node`` replaced by how many of its workers a node of the cluster takes.

    Raises:
        SpecError: the profile does not say it, or says different numbers.
    """
    if job.strategy.kind == "ddp" or job.strategy.shard_group != "node":
        return job
    strategy = job.strategy.model_copy(update={"shard_group": _workers_of_a_node(job.scaling, profile)})
    return job.model_copy(update={"strategy": strategy})


def sharers(job: ResolvedJob) -> int:
    """Workers that share one copy of the model where the job says how many; 1 where it doesn't.

    Raises:
        SpecError: it says ``node``.
    """
    if job.strategy.kind == "ddp" or job.strategy.shard_group is None:
        return 1
    if job.strategy.shard_group == "node":
        raise SpecError(
            "strategy.shard_group: how many workers a node takes is looked up when a run is first planned; give the number"
        )
    return job.strategy.shard_group


def check_shard_group(job: ResolvedJob) -> None:
    """Raises SpecError where the workers can't be put into such groups. Of a range only numbers that can are possible."""
    group, workers = sharers(job), job.scaling.most_workers
    if not job.scaling.range and workers % group:
        raise SpecError(
            f"strategy.shard_group: groups of {group} do not divide scaling.workers {workers};"
            f" these do: {', '.join(str(n) for n in range(1, workers + 1) if workers % n == 0)}"
        )


def _workers_of_a_node(scaling: ScalingSpec, profile: ClusterProfile) -> int:
    if scaling.placement == "spread":
        raise SpecError(
            "strategy.shard_group: node goes with scaling.placement pack; spread puts workers on as many nodes as there are"
        )
    if profile.kind == "local" and not profile.node_groups:
        if scaling.range:
            raise SpecError(
                "strategy.shard_group: node is not known where the number of workers may change and all are on this machine; give"
                " the number of workers"
            )
        return scaling.most_workers  # one machine
    counts = {_places(scaling, group) for group in profile.node_groups if _can_take(scaling, group)} - {0}
    if len(counts) != 1:
        known = (
            f"has node groups that take {' or '.join(map(str, sorted(counts)))} of these workers"
            if counts
            else "has no node group that says how many of these workers a node takes"
        )
        raise SpecError(
            f"strategy.shard_group: node is not known, since profile {profile.name} {known}; give the number of workers"
        )
    return min(counts.pop(), scaling.most_workers)


def _can_take(scaling: ScalingSpec, group: NodeGroup) -> bool:
    labels = scaling.node_labels.items() <= group.labels.items()
    return labels and scaling.accelerator_type in (None, group.accelerator_type)


def _places(scaling: ScalingSpec, group: NodeGroup) -> int:
    """Workers that one node has room for."""
    room = [int(group.cpus / scaling.cpus_per_worker)]
    if scaling.memory_per_worker:
        room.append(int(group.memory / scaling.memory_per_worker))
    if scaling.gpus_per_worker:
        room.append(group.gpus)
    return min(room)
