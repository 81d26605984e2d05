"""Whether a plan can ever fit the nodes that a profile names, and on how many of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.errors import ResourcesError, SpecError
from orchestrator.planning.memory import TRAINED_SECONDS_HERE, waiting_process_bytes
from orchestrator.planning.plan import Plan
from orchestrator.section import format_bytes
from orchestrator.spec.profile import ClusterProfile, NodeGroup
from orchestrator.spec.scaling import ScalingSpec

_SLACK = 1e-9
"""Fractions of a core are compared with this tolerance, so that ten times 0.1 is one."""


def fits(plan: Plan, profile: ClusterProfile) -> None:
    """Refuse a plan that can never run on the profile's nodes, however long it waits. Pure.

    A profile without node groups says nothing of its nodes: then every plan passes.

    Raises:
        SpecError: no node group has the labels or the accelerator that the job asks for.
        ResourcesError: too much for one node, or for all of them together; with the arithmetic.
    """
    nodes_for(plan, profile)
    _room_for_spares(plan, profile)


def refuse_spares(plan: Plan, why: str) -> None:
    """Raises SpecError, where the plan asks for spare workers, with why this kind of cluster holds none."""
    if spares := plan.job.recovery.spare_workers:
        raise SpecError(f"recovery.spare_workers: {spares}: {why}")


def _room_for_spares(plan: Plan, profile: ClusterProfile) -> None:
    spares, scaling = plan.job.recovery.spare_workers, plan.job.scaling
    if not spares or not profile.node_groups:
        return
    room = sum(workers_per_node(scaling, each) * each.max for each in _matching(scaling, profile))
    if room < plan.world_size + spares:
        raise ResourcesError(
            f"recovery.spare_workers: {spares}: cluster {profile.name} has room for {room} workers in all, and"
            f" {plan.world_size} train; lower one of them or raise node_groups.max"
        )


def nodes_for(plan: Plan, profile: ClusterProfile) -> dict[str, int]:
    """Nodes to use of each group (groups that are not used are left out). Pure; raises as ``fits``.

    Groups are taken in the profile's order, those with GPUs last where no worker needs one. One group that holds
    all workers goes before several that do it together: workers of one run should be alike. Where the number of workers may
    change there is to be room for the most, and there must be for the fewest.
    """
    if not profile.node_groups:
        return {}
    scaling = plan.job.scaling
    groups = sorted(
        _matching(scaling, profile), key=lambda group: scaling.gpus_per_worker == 0 and group.gpus > 0
    )
    rooms = {group.name: workers_per_node(scaling, group) for group in groups}
    usable = [group for group in groups if rooms[group.name]]
    total = sum(rooms[group.name] * group.max for group in usable)
    most = plan.largest_within(total)
    if most is None:
        raise ResourcesError(_arithmetic(plan, profile, groups, rooms, total))
    single = [group for group in usable if rooms[group.name] * group.max >= most]
    chosen: dict[str, int] = {}
    left = most
    for group in single[:1] or usable:
        nodes = left if scaling.placement == "spread" else math.ceil(left / rooms[group.name])
        chosen[group.name] = min(group.max, nodes)
        left -= min(left, chosen[group.name] * rooms[group.name])
        if not left:
            break
    if profile.kind == "kubernetes":
        _refuse_reading_without_room(plan, profile, chosen, rooms, most)
    return chosen


def _refuse_reading_without_room(
    plan: Plan, profile: ClusterProfile, chosen: dict[str, int], rooms: dict[str, int], workers: int
) -> None:
    """These nodes are made for the run alone, and Ray's tasks wait without end for a CPU that no node has to spare."""
    asked = plan.job.data.reader_cpus if plan.job.data.reader == "ray" else 0
    left, spare = workers, float(profile.head.offered_cpus)
    for group in (group for group in profile.node_groups if group.name in chosen):
        nodes = chosen[group.name]
        placed = min(left, rooms[group.name] * nodes)
        left -= placed
        spare = max(spare, group.cpus - placed // nodes * plan.job.scaling.cpus_per_worker)
    if asked > spare + _SLACK:
        raise ResourcesError(
            f"data.reader_cpus: each read task sets {asked:g} CPUs aside, but beside the workers no node of cluster"
            f" {profile.name} has more than {max(0.0, spare):g} left; ask for less (0: reading shares the workers' cores), for"
            " fewer scaling.cpus_per_worker, or take larger node_groups"
        )


@dataclass(frozen=True)
class Waiting:
    """Processes that wait for a restart on one node of a group, ``recovery.warm_processes``."""

    group: NodeGroup
    processes: int
    """As many as workers train there."""
    each: int
    """Bytes of one."""
    set_aside: int
    """Bytes that the job sets aside for those workers, ``scaling.memory_per_worker``."""

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return self.processes * self.each

    @property
    def line(self) -> str:
        """For a plan."""
        each = "process waits" if self.processes == 1 else "processes wait"
        return (
            f"{self.processes} {each} for a restart on a node of {self.group.name}: about {format_bytes(self.bytes)} of its"
            f" {format_bytes(self.group.memory)}"
        )

    @property
    def warning(self) -> str:
        """Where they don't fit beside the workers; else empty."""
        if self.set_aside + self.bytes <= self.group.memory:
            return ""
        beside = f" beside the {format_bytes(self.set_aside)} of the workers" if self.set_aside else ""
        return (
            f"warning: {self.line}, which is too little{beside}: set recovery.warm_processes: false, or lower"
            " scaling.memory_per_worker or the workers of a node"
        )


def waiting(plan: Plan, profile: ClusterProfile) -> list[Waiting]:
    """What waits on the nodes that train; nothing on this machine, nor where the profile does not name its nodes. Pure."""
    if profile.kind == "local" or not plan.job.recovery.warm_processes or plan.question is not None:
        return []
    scaling, found, left = plan.job.scaling, [], plan.world_size
    nodes, groups = nodes_for(plan, profile), {group.name: group for group in profile.node_groups}
    for name, count in nodes.items():
        room = workers_per_node(scaling, groups[name])
        most = math.ceil(left / count) if scaling.placement == "spread" else left
        there = min(room, most)
        left -= min(left, count * room)
        each = waiting_process_bytes(plan.job)
        found.append(Waiting(groups[name], there, each, there * (scaling.memory_per_worker or 0)))
    return found


def waiting_lines(plan: Plan, profile: ClusterProfile) -> list[str]:
    """What waits for a restart, for a plan; nothing where the job does without. Pure."""
    if not plan.job.recovery.warm_processes or plan.question is not None:
        return []
    each = format_bytes(waiting_process_bytes(plan.job))
    if profile.kind == "local":
        return [
            f"after {TRAINED_SECONDS_HERE:g} s of training a process for each worker waits for a restart here, where memory is free:"
            f" about {each} each"
        ]
    known = [each.line for each in waiting(plan, profile)]
    return known or [f"a process for each worker waits for a restart on its node: about {each} each"]


def warnings_here(plan: Plan, profile: ClusterProfile, *, cores: int, gpus: int) -> list[str]:
    """What a run on this machine will suffer from; nothing where the profile is of another place. Pure."""
    scaling, found, workers = plan.job.scaling, [], plan.least_workers
    if profile.kind != "local":
        return []
    if workers * scaling.cpus_per_worker > cores + _SLACK:
        found.append(
            f"warning: {workers} workers × {scaling.cpus_per_worker:g} CPUs are more than this machine's {cores}"
            " cores: they take turns, and no step is faster than with fewer"
        )
    if workers * scaling.gpus_per_worker > gpus:
        found.append(
            f"warning: the job asks for {workers} GPUs, and this machine has {gpus}: a run here will refuse"
        )
    return found


def workers_per_node(scaling: ScalingSpec, group: NodeGroup) -> int:
    """Workers that one node of the group holds at once."""
    room = math.floor(group.cpus / scaling.cpus_per_worker + _SLACK)
    if scaling.gpus_per_worker:
        room = min(room, group.gpus // scaling.gpus_per_worker)
    if scaling.memory_per_worker:
        room = min(room, group.memory // scaling.memory_per_worker)
    return room


def _matching(scaling: ScalingSpec, profile: ClusterProfile) -> list[NodeGroup]:
    groups = [group for group in profile.node_groups if scaling.node_labels.items() <= group.labels.items()]
    if not groups:
        wanted = ", ".join(f"{key}={value}" for key, value in scaling.node_labels.items())
        raise SpecError(
            f"scaling.node_labels: no node group of cluster {profile.name} has {wanted};"
            f" its groups are {_names(profile.node_groups)}"
        )
    if scaling.accelerator_type is None:
        return groups
    groups = [group for group in groups if group.accelerator_type == scaling.accelerator_type]
    if not groups:
        known = sorted({group.accelerator_type for group in profile.node_groups if group.accelerator_type})
        raise SpecError(
            f"scaling.accelerator_type: cluster {profile.name} has no {scaling.accelerator_type};"
            f" it has {', '.join(known) or 'no accelerators'}"
        )
    return groups


def _arithmetic(
    plan: Plan, profile: ClusterProfile, groups: list[NodeGroup], rooms: dict[str, int], total: int
) -> str:
    scaling, workers = plan.job.scaling, plan.least_workers
    asked = _amounts(
        workers * scaling.cpus_per_worker,
        workers * scaling.gpus_per_worker,
        workers * (scaling.memory_per_worker or 0),
    )
    largest = max(groups, key=lambda group: (rooms[group.name], group.gpus, group.cpus))
    each = _amounts(scaling.cpus_per_worker, scaling.gpus_per_worker, scaling.memory_per_worker or 0)
    node = _amounts(largest.cpus, largest.gpus, largest.memory)
    everything = _amounts(
        sum(group.cpus * group.max for group in groups),
        sum(group.gpus * group.max for group in groups),
        sum(group.memory * group.max for group in groups),
    )
    if not total:
        mend = "ask for less for each worker (scaling.*_per_worker) or take another cluster"
    else:
        field = "scaling.workers.min" if plan.sizes else "scaling.workers"
        mend = f"lower {field} to {total} or raise node_groups.max"
    return (
        f"cluster {profile.name} can never hold the job: asked for {asked} ({workers} workers × {each});"
        f" largest node {node} ({largest.name}, {rooms[largest.name]} workers);"
        f" total {everything} ({total} workers); {mend}"
    )


def _amounts(cpus: float, gpus: float, memory: int) -> str:
    parts = [f"{cpus:g} CPU"]
    if gpus:
        parts.append(f"{gpus:g} GPU")
    if memory:
        parts.append(format_bytes(memory))
    return " + ".join(parts)


def _names(groups: tuple[NodeGroup, ...]) -> str:
    return ", ".join(
        f"{group.name} ({', '.join(f'{key}={value}' for key, value in group.labels.items()) or 'no labels'})"
        for group in groups
    )
