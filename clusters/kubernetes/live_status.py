"""How launches stand: from their RayJobs, the runs' records, their logs, and their pods where those don't run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.config_maps import ConfigMaps
from orchestrator.clusters.kubernetes.errors import NoRightError
from orchestrator.clusters.kubernetes.head_logs import HeadLogs
from orchestrator.clusters.kubernetes.pod_problems import pods_problem, queue_problem
from orchestrator.clusters.kubernetes.pod_waits import waited_for
from orchestrator.clusters.kubernetes.pods import Pods
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.request import RUN_LABEL, STORAGE
from orchestrator.clusters.kubernetes.status import half_sent, launch_of, ray_cluster_of, rayjob_to_status
from orchestrator.clusters.kubernetes.storage_access import StorageAccess
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.clusters.shared.run_records import storage_record, unreadable_left_out
from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.runs import RunState, RunStatus

log = logging.getLogger(__name__)

_READERS = 16
"""Records read at once for a list."""


class LiveStatus:
    """Of the launches of one cluster. Every method may raise what ``ApiServer`` says."""

    def __init__(self, server: ApiServer, storage: StorageAccess) -> None:
        self._profile, self._storage = server.profile, storage
        self._rayjobs, self._pods, self._config_maps = RayJobs(server), Pods(server), ConfigMaps(server)
        self._heads = HeadLogs(server, storage.recorded)

    def of(self, rayjob: dict[str, Any]) -> RunStatus:
        """One that is looked at closely."""
        record = self._record_of(rayjob)
        status = rayjob_to_status(rayjob, self._profile, record)
        if self.is_half_sent(rayjob, status):
            return rayjob_to_status(rayjob, self._profile, record, half_sent(status))
        if status.state is RunState.PENDING:
            pods = self._pods_of(rayjob)
            status = rayjob_to_status(rayjob, self._profile, record, self._problem(rayjob, pods))
            return status if record else status.having_waited(waited_for(rayjob, pods))
        is_untold = status.state.is_final and record is None and not status.waited
        if is_untold and not self.has_begun(rayjob):
            status = status.having_waited(waited_for(rayjob, self._pods_of(rayjob)))
        if record is None and (pod := self._heads.pod(rayjob)):
            # KubeRay notes an end later than the driver tells it, and not at all while its operator is away
            status = with_progress(status, self._heads.last_lines(pod), told_end_holds=True)
        elif record is None and status.state.is_final and (rayjob.get("status") or {}).get("jobStatus"):
            status = self._with_kept_record(status)
        if status.state is RunState.STARTING and (problem := self._problem(rayjob, self._pods_of(rayjob))):
            # the head runs and its driver waits for workers: autoscaled ones, or one that was lost and is made again
            return status.saying(problem)
        return status

    def of_all(self, rayjobs: Sequence[dict[str, Any]]) -> list[RunStatus]:
        """Many, by one call where any of them waits for its pods. Step and metrics of each are of its record, where the storage
        can be read from here.
        """
        problems = self._problems_of_pods(rayjobs)
        with ThreadPoolExecutor(_READERS) as readers:
            records = readers.map(self._record_of, rayjobs)
            return [
                rayjob_to_status(rayjob, self._profile, record, problems.get(ray_cluster_of(rayjob)))
                for rayjob, record in zip(rayjobs, records, strict=True)
            ]

    def is_half_sent(self, rayjob: dict[str, Any], status: RunStatus) -> bool:
        """Whether it waits for a ConfigMap that its command never made."""
        if status.state is not RunState.PENDING:
            return False
        try:
            self._config_maps.get(rayjob["metadata"]["name"])
        except NotFoundError:
            return True
        return False

    def has_begun(self, rayjob: dict[str, Any]) -> bool:
        """Whether a launch has had a driver; of records in a claim the next driver knows better."""
        if self._storage.is_read_here:
            record = storage_record(rayjob["metadata"]["annotations"][STORAGE])
            return record.newest_driver(launch_of(rayjob)) > 0
        return bool((rayjob.get("status") or {}).get("jobStatus"))

    def _with_kept_record(self, status: RunStatus) -> RunStatus:
        """With what the run says of itself in a claim, once no pod of it tells; as it is for who may not look there."""
        try:
            record = self._storage.recorded.status(status.run_id, status.launch)
        except InfrastructureError as error:
            log.warning("its last steps and values are in the storage claim, which can't be read: %s", error)
            return status
        return status if record is None else status.with_record(record)

    def _record_of(self, rayjob: dict[str, Any]) -> RunStatus | None:
        """What the run says of itself, where its storage can be read from here."""
        if not self._storage.is_read_here:
            return None
        with unreadable_left_out():
            return storage_record(rayjob["metadata"]["annotations"][STORAGE]).status(launch_of(rayjob))
        return None

    def _pods_of(self, rayjob: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """Of its newest Ray cluster."""
        cluster = ray_cluster_of(rayjob)
        return self._pods.with_labels(f"ray.io/cluster={cluster}") if cluster else ()

    def _problem(self, rayjob: dict[str, Any], pods: Iterable[dict[str, Any]]) -> str | None:
        """Why it waits."""
        if (queue := self._profile.kubernetes.queue) and rayjob["spec"].get("suspend"):
            try:
                return queue_problem(self._rayjobs.workloads(rayjob["metadata"].get("uid", "")))
            except NoRightError:
                return f"waiting in queue {queue}; you have no right to list workloads, which say for what"
        if not (cluster := ray_cluster_of(rayjob)):
            return None
        ray_cluster = None
        with contextlib.suppress(NotFoundError):
            ray_cluster = self._rayjobs.ray_cluster(cluster)
        return pods_problem(pods, ray_cluster)

    def _problems_of_pods(self, rayjobs: Iterable[dict[str, Any]]) -> dict[str, str]:
        """Ray cluster -> why its pods do not run, for those of runs that wait."""
        waiting = {
            ray_cluster_of(rayjob)
            for rayjob in rayjobs
            if ray_cluster_of(rayjob) and rayjob_to_status(rayjob, self._profile).state is RunState.PENDING
        }
        pods: dict[str, list[dict[str, Any]]] = {}
        for pod in self._pods.with_labels(RUN_LABEL) if waiting else ():
            pods.setdefault(pod["metadata"]["labels"].get("ray.io/cluster", ""), []).append(pod)
        found = {cluster: pods_problem(pods.get(cluster, [])) for cluster in waiting}
        return {cluster: problem for cluster, problem in found.items() if problem}
