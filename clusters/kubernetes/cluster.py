"""Kubernetes, through KubeRay: one RayJob for each launch of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from orchestrator.clusters.base import Request, Revise
from orchestrator.clusters.kubernetes import server_facts
from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.config_maps import ConfigMaps
from orchestrator.clusters.kubernetes.head_logs import HeadLogs
from orchestrator.clusters.kubernetes.live_status import LiveStatus
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.request import PLAN_KEY, RUN_ID, STORAGE, stop_patch
from orchestrator.clusters.kubernetes.run_log import EARLIER, parse_rank_line
from orchestrator.clusters.kubernetes.sending import rendered, send
from orchestrator.clusters.kubernetes.status import launch_of, rayjob_to_status, run_label_of
from orchestrator.clusters.kubernetes.storage_access import StorageAccess
from orchestrator.clusters.shared.launches import (
    folder_of,
    newest_launches,
    next_launch,
    refuse_deleted,
    refuse_forgotten,
    refuse_living,
    refuse_nothing_left,
)
from orchestrator.clusters.shared.log_lines import rank_lines, some_lines
from orchestrator.clusters.shared.run_records import storage_record
from orchestrator.clusters.shared.safe_names import rayjob_name
from orchestrator.clusters.shared.uploads.target import UploadTarget
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError
from orchestrator.planning.plan import DataFacts, Plan
from orchestrator.records import RunRecord
from orchestrator.runs import Began, RunState, RunStatus
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import Store


class KubernetesCluster:
    """The Cluster protocol over RayJobs in one namespace.

    Args:
        profile: Of kind kubernetes.
        server: For tests; default: connects when first needed.
    """

    def __init__(self, profile: ClusterProfile, server: ApiServer | None = None) -> None:
        self.profile = profile
        self._server = server or ApiServer(profile)
        self._rayjobs, self._config_maps = RayJobs(self._server), ConfigMaps(self._server)
        self._storage = StorageAccess(self._server)
        self._statuses = LiveStatus(self._server, self._storage)

    def render(self, plan: Plan) -> Request:
        """The RayJob that would be created. Reads the working directory, and nothing else."""
        body, _ = rendered(plan, self.profile, 1)
        return Request(kind="rayjob_manifest", run_id=plan.run_id, body=body, plan=plan)

    def submit(self, request: Request) -> RunStatus:
        """Let the server check the RayJob and its ConfigMap, then create both; neither is left without the other."""
        return send(self._server, request.plan, 1)

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Another RayJob with the plan of the last, or its revision, and the working directory as it is now. Where a command
        was killed while it sent one, what that lacks.
        """
        rayjob = self._rayjobs.newest_of_run(run_id)
        if rayjob is None:
            return self._resume_forgotten(run_id, revise)
        status = self._statuses.of(rayjob)
        is_half_sent = status.launch > 1 and self._statuses.is_half_sent(rayjob, status)
        launch = status.launch if is_half_sent else next_launch(status)
        plan = self._plan_of(rayjob)
        if self._storage.is_read_here:
            refuse_deleted(storage_record(plan.storage), run_id)
        plan = plan if revise is None else revise(plan)
        refuse_nothing_left(status, plan)
        if is_half_sent:
            return send(self._server, plan, launch, before=status.before)
        has_begun = self._statuses.has_begun(rayjob)
        return send(self._server, plan, launch, before=None if has_begun else status)

    def _resume_forgotten(self, run_id: str, revise: Revise | None) -> RunStatus:
        """The same from the run's records alone; one that has no end there was lost with its RayJob."""
        status = self._forgotten(run_id)
        plan = self._storage.recorded.to_resume(status)
        launch = next_launch(status)
        plan = plan if revise is None else revise(plan)
        refuse_nothing_left(status, plan)
        rendered(plan, self.profile, launch)  # what can't be sent is refused before anything is written
        self._storage.recorded.end(status)
        return send(self._server, plan, launch)

    def status(self, run_id: str) -> RunStatus:
        """From the RayJob, the run's records, its log, and its pods where they don't run; of a run whose RayJobs are gone from
        its records.
        """
        rayjob = self._rayjobs.newest_of_run(run_id)
        return self._forgotten(run_id) if rayjob is None else self._statuses.of(rayjob)

    def plan(self, run_id: str) -> Plan:
        """From the ConfigMap of its newest launch; of a run whose RayJobs are gone from its records."""
        rayjob = self._rayjobs.newest_of_run(run_id)
        if rayjob is None:
            return self._storage.recorded.plan(run_id, self._forgotten(run_id).launch)
        return self._plan_of(rayjob)

    def list(self) -> list[RunStatus]:
        """The newest launch of each run whose RayJob is still there, from one call; from two where a run waits for
        its pods. Step and metrics of each from its record, where the storage can be read from here.
        """
        newest = newest_launches(self._rayjobs.all_ours(), run_label_of, launch_of)
        found = self._statuses.of_all(newest)
        return sorted(found, key=lambda status: status.submitted_at, reverse=True)

    def forgotten(self) -> Sequence[RunStatus]:
        """As runs stand whose RayJobs are gone; with a claim from one command in a short pod."""
        return self._storage.recorded.all_forgotten()

    def logs(self, run_id: str, *, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """From the pod while it is there, from the run's records before and after. With ``follow`` through minutes without an
        API server.
        """
        server = self._server.following() if follow else self._server
        heads = HeadLogs(server, self._storage.recorded)
        rayjob = RayJobs(server).newest_of_run(run_id)
        if rayjob is None:
            lines = heads.recorded_lines(run_id, self._forgotten(run_id).launch, rank)
            return lines if rank is None else some_lines(lines, run_id, rank)
        name = rayjob["metadata"]["name"]
        if rank is not None and self._storage.is_read_here:
            record = storage_record(rayjob["metadata"]["annotations"][STORAGE])
            has_ended = partial(heads.has_ended, name)
            return some_lines(rank_lines(record, rank, follow=follow, has_ended=has_ended), run_id, rank)
        lines = heads.followed(name, rank) if follow else heads.read_once(rayjob, rank)
        if rank is None:
            return (line.removeprefix(EARLIER) for line in lines if parse_rank_line(line) is None)
        marked = (parse_rank_line(line) for line in lines)
        return some_lines((found[2] for found in marked if found and found[1] == rank), run_id, rank)

    def stop(self, run_id: str, *, now: bool = False) -> RunStatus:
        """A graceful stop through storage or, where only pods reach that, through the run's ConfigMap within about a
        minute. ``now``, or before the driver lives, the RayJob is ended.
        """
        rayjob = self._rayjobs.newest_of_run(run_id)
        if rayjob is None:
            return self._forgotten(run_id)
        status = self._statuses.of(rayjob)
        if status.state.is_final:
            return status
        metadata = rayjob["metadata"]
        if now or status.state is RunState.PENDING:
            return self._end_now(rayjob, status.waited)
        if self._storage.is_read_here:
            storage_record(metadata["annotations"][STORAGE]).ask_to_stop(status.launch)
            return status.at(RunState.STOPPING)
        try:
            self._config_maps.patch(metadata["name"], {"data": {f"stop-{status.launch}": ""}})
        except NotFoundError:  # its command was killed before it made one, so no driver can live
            return self._end_now(rayjob)
        return status.at(RunState.STOPPING)

    def _end_now(self, rayjob: dict[str, Any], waited: Sequence[Began] = ()) -> RunStatus:
        patch = stop_patch(rayjob, self.profile, time.time(), waited)
        return rayjob_to_status(self._rayjobs.patch(rayjob["metadata"]["name"], patch), self.profile)

    def delete(self, run_id: str) -> None:
        """Remove an ended run's files, also of one whose RayJobs are gone, then its RayJobs with what they own."""
        store = self.storage(folder_of(run_id))
        record = RunRecord(store.root, store)
        rayjobs = self._rayjobs.of_run(run_id)
        if rayjobs:
            refuse_living(self._statuses.of(rayjobs[-1]))
        elif not record.is_deleted:
            refuse_forgotten(record.status(), run_id, self.profile.name)
        record.delete()
        for rayjob in reversed(rayjobs):
            self._rayjobs.delete(rayjob["metadata"]["name"])

    def storage(self, below: str = "") -> Store:
        """The bucket, or the claim through a short pod that mounts it."""
        return self._storage.store(below)

    def upload_target(self, place: str, *, replace: bool) -> UploadTarget:
        """The bucket, or a command in a pod that mounts the claim in which the place lies."""
        return self._storage.upload_target(place, replace=replace)

    def look_at_data(self, job: JobSpec, base_dir: str) -> DataFacts | None:
        """In a pod that mounts what those of the job do: where it lies in a claim, or this process has no Arrow to read with."""
        return self._storage.look_at_data(job, base_dir)

    def ping(self) -> str:
        """The server's version, and that it knows RayJobs and lets us list them."""
        version = server_facts.version(self._server)
        if not server_facts.rayjobs_are_served(self._server):
            raise InfrastructureError(
                f"cluster {self.profile.name}: Kubernetes {version} answers but knows no RayJobs (ray.io/v1); install"
                " the KubeRay operator 1.7"
            )
        count = len(self._rayjobs.all_ours())
        return f"Kubernetes {version}, namespace {self._server.namespace}, {count} runs"

    def _forgotten(self, run_id: str) -> RunStatus:
        """How a run without a RayJob stands by its records. Raises NotFoundError where there are none."""
        unknown = f"cluster {self.profile.name} knows no run {run_id}"
        try:
            found = self._storage.recorded.forgotten(run_id)
        except InfrastructureError as error:
            raise InfrastructureError(
                f"{unknown}, and whether its storage has one can't be seen: {error}"
            ) from None
        if found is None:
            raise NotFoundError(unknown)
        return found

    def _plan_of(self, rayjob: dict[str, Any]) -> Plan:
        """The launch's plan, or the one before it where the command was killed before it stored the launch's own."""
        run_id = rayjob["metadata"]["annotations"][RUN_ID]
        for launch in range(launch_of(rayjob), 0, -1):
            with contextlib.suppress(NotFoundError):
                config_map = self._config_maps.get(rayjob_name(run_id, launch))
                return Plan.model_validate_json(config_map["data"][PLAN_KEY])
        raise SpecError(
            f"run {run_id} has no plan: the command that submitted it was killed before it was stored, and nothing of it"
            " has run; submit the job again"
        )
