"""A running Ray cluster, through its Jobs API."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from orchestrator.clusters.base import Request, Revise
from orchestrator.clusters.ray.api import RayClient
from orchestrator.clusters.ray.request import is_ours, job_to_plan, launch_of, plan_to_ray_job, run_of
from orchestrator.clusters.ray.status import forgotten, job_to_status
from orchestrator.clusters.shared.capacity import fits
from orchestrator.clusters.shared.launches import (
    folder_of,
    newest_launches,
    next_launch,
    refuse_another_job,
    refuse_deleted,
    refuse_forgotten,
    refuse_living,
    refuse_nothing_left,
)
from orchestrator.clusters.shared.log_lines import LineSplitter, rank_lines, some_lines
from orchestrator.clusters.shared.packaging import pack, pack_own_code
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.clusters.shared.recorded_runs import RecordedRuns
from orchestrator.clusters.shared.run_records import (
    is_reachable_from_here,
    remote_record,
    storage_record,
    unreadable_left_out,
)
from orchestrator.clusters.shared.safe_names import submission_id
from orchestrator.clusters.shared.stores import ExplainedStore, RemoteStore
from orchestrator.clusters.shared.uploads.bucket import BucketTarget
from orchestrator.clusters.shared.uploads.folder import FolderTarget
from orchestrator.clusters.shared.uploads.target import UploadTarget
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord, plan_name
from orchestrator.runs import RunState, RunStatus
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import Store, is_uri

_READERS = 16
"""Records read at once for a list."""


class RayJobsCluster:
    """The Cluster protocol over Ray's Jobs API: one job a launch, with the launch's fixed id."""

    def __init__(self, profile: ClusterProfile, client: RayClient | None = None) -> None:
        self.profile = profile
        self._client = client or RayClient(profile)

    def render(self, plan: Plan) -> Request:
        """Pure. Raises ResourcesError or SpecError where the plan can never fit."""
        fits(plan, self.profile)
        return Request(
            kind="ray_job", run_id=plan.run_id, body=plan_to_ray_job(plan, self.profile), plan=plan
        )

    def submit(self, request: Request) -> RunStatus:
        """Package and send. Raises SpecError where the package, or a version, can't work; before anything is sent."""
        if earlier := self._first_plan(request.plan):
            refuse_another_job(request.plan, earlier)
        package = pack(request.plan, with_own_code=True)
        self._client.check_versions()
        return self._send(request.plan, 1, package)

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Another launch with the plan of the last, or its revision, and the working directory as it is now. One that Ray has
        forgotten ends as lost first, also where its driver lives on.
        """
        job = self._known(run_id)
        if job is None:
            status = self._forgotten(run_id)
            plan = self._recorded.to_resume(status)
        else:
            status, plan = self._status_of(job), job_to_plan(job)
            refuse_deleted(self._record(plan), run_id)
        launch = next_launch(status)
        if revise is not None:
            plan = self.render(revise(plan)).plan
        refuse_nothing_left(status, plan)
        package = pack(plan, with_own_code=True)
        self._client.check_versions()
        if job is None:
            self._recorded.end(status)
        has_begun = status.attempt > 0 or self._record(plan).newest_driver(status.launch) > 0
        return self._send(plan, launch, package, None if has_begun else status)

    def status(self, run_id: str) -> RunStatus:
        """From Ray, the run's records and, where those can't be reached, the driver's output. Of a run that Ray has forgotten,
        from its records.
        """
        job = self._known(run_id)
        return self._forgotten(run_id) if job is None else self._status_of(job)

    def plan(self, run_id: str) -> Plan:
        """From the job's metadata; of a run that Ray has forgotten, from its records."""
        job = self._known(run_id)
        if job is None:
            return self._recorded.plan(run_id, self._forgotten(run_id).launch)
        return job_to_plan(job)

    def list(self) -> list[RunStatus]:
        """The newest launch of each run that Ray still knows."""
        newest = newest_launches(filter(is_ours, self._client.list()), run_of, launch_of)
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(self._without_output, newest))
        return sorted(found, key=lambda status: status.submitted_at, reverse=True)

    def forgotten(self) -> Sequence[RunStatus]:
        """As lost with the head before this one, where they have no end."""
        return self._recorded.all_forgotten()

    def logs(self, run_id: str, *, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """The newest launch's driver from Ray, a rank's from the run's records."""
        job = self._newest(run_id)
        if rank is None:
            return self._driver_lines(job["submission_id"], follow=follow)
        record = self._record(job_to_plan(job))
        has_ended = partial(self._client.has_ended, job["submission_id"])
        return some_lines(rank_lines(record, rank, follow=follow, has_ended=has_ended), run_id, rank)

    def stop(self, run_id: str, *, now: bool = False) -> RunStatus:
        """A graceful stop through the run's records; ``now``, or before the driver lives, through Ray."""
        job = self._newest(run_id)
        status = self._status_of(job)
        if status.state.is_final:
            return status
        if now or status.state is RunState.PENDING:
            self._client.stop(job["submission_id"])
        else:
            self._record(job_to_plan(job)).ask_to_stop(status.launch)
        return status.at(RunState.STOPPING)

    def delete(self, run_id: str) -> None:
        """Remove an ended run's files, also of one that Ray has forgotten, then its jobs, the newest first."""
        store = self.storage(folder_of(run_id))
        record = RunRecord(store.root, store)
        jobs = self._jobs_of(run_id)
        if jobs:
            refuse_living(self._status_of(jobs[-1]))
        elif not record.is_deleted:
            refuse_forgotten(record.status(), run_id, self.profile.name)
        record.delete()
        for job in reversed(jobs):
            self._client.delete(job["submission_id"])

    def storage(self, below: str = "") -> Store:
        """The profile's storage: read from here, or through jobs on the head."""
        place = f"{self.profile.storage}/{below}".rstrip("/")
        if is_reachable_from_here(str(self.profile.storage)):
            return ExplainedStore(place)
        return RemoteStore(place, self.run_on_head)

    def upload_target(self, place: str, *, replace: bool) -> UploadTarget:
        """A bucket, or a folder that this machine shares with the nodes."""
        storage = str(self.profile.storage)
        if is_uri(storage):
            return BucketTarget(place, replace=replace)
        if not is_reachable_from_here(storage):
            raise InfrastructureError(
                f"cluster {self.profile.name}: {storage} is a folder that only its nodes reach; mount it here under that path,"
                f" or copy the data to {place} on a node"
            )
        return FolderTarget(place, replace=replace)

    def look_at_data(self, job: JobSpec, base_dir: str) -> None:
        """For this process to look."""

    def ping(self) -> str:
        """Ray's and Python's version on the cluster. Says also where they don't go with this client's."""
        self._client.list()
        self._client.check_versions()
        found = self._client.versions()
        return f"Ray {found['ray']}, Python {found['python'] or 'unknown'} at {self.profile.address}"

    def run_on_head(self, command: Sequence[str], *, run_timeout_seconds: float = 120.0) -> str:
        """Output of a short command that runs as a job of its own on the head, with our code beside it.

        Raises InfrastructureError where it fails or takes too long.
        """
        name = f"trainwright-tool-{uuid.uuid4().hex[:12]}"
        wrapped = ["timeout", f"{run_timeout_seconds:g}", *command]
        self._client.submit(
            submission_id=name,
            entrypoint=shlex.join(wrapped),
            package=pack_own_code(),
            runtime_env={},
            metadata={"trainwright-tool": command[2] if len(command) > 2 else command[0]},
        )
        output = "".join(self._client.follow(name))
        job = self._client.info(name)
        self._client.delete(name)
        if job["status"] != "SUCCEEDED":
            last = (output.strip().splitlines() or [str(job.get("message") or "")])[-1]
            raise InfrastructureError(f"cluster {self.profile.name}: {command[2]} failed there: {last[:300]}")
        return output

    def _send(self, plan: Plan, launch: int, package: bytes, before: RunStatus | None = None) -> RunStatus:
        body = plan_to_ray_job(plan, self.profile, launch, before)
        is_new = self._client.submit(
            submission_id=body["submission_id"],
            entrypoint=body["entrypoint"],
            package=package,
            runtime_env=body["runtime_env"],
            metadata=body["metadata"],
        )
        job = self._client.info(body["submission_id"])
        asked = body["metadata"]
        if not is_new and (
            not is_ours(job) or any(job["metadata"][key] != asked[key] for key in ("run", "launch", "digest"))
        ):
            raise SpecError(
                f"cluster {self.profile.name} has another job with the id {body['submission_id']}; submit again for"
                " a fresh id"
            )
        return self._status_of(job)

    def _driver_lines(self, job: str, *, follow: bool) -> Iterator[str]:
        splitter = LineSplitter()
        for piece in self._client.follow(job) if follow else [self._client.logs(job)]:
            yield from splitter.feed(piece)
        yield from splitter.end()

    def _newest(self, run_id: str) -> dict[str, Any]:
        """The job of the run's newest launch. Raises NotFoundError where Ray knows none."""
        job = self._known(run_id)
        if job is None:
            self._forgotten(run_id)
            raise NotFoundError(
                f"{forgotten(self.profile.name)} run {run_id} and its output; trainwright resume {run_id} goes on with it"
            )
        return job

    @property
    def _recorded(self) -> RecordedRuns:
        """What the storage has of runs: read from here, or through jobs on the head."""
        is_here = is_reachable_from_here(str(self.profile.storage))
        return RecordedRuns(self.profile, None if is_here else self.run_on_head)

    def _forgotten(self, run_id: str) -> RunStatus:
        """How a run that Ray does not know stands by its records. Raises NotFoundError where there are none."""
        found = self._recorded.forgotten(run_id)
        if found is None:
            raise NotFoundError(f"cluster {self.profile.name} knows no run {run_id}")
        return found.with_urls({"dashboard": str(self.profile.address)})

    def _first_plan(self, plan: Plan) -> Plan | None:
        """What the run's id stands for already, where its records can be read from here."""
        if not is_reachable_from_here(str(self.profile.storage)):
            return None
        return storage_record(plan.storage).section(plan_name(1), Plan)

    def _known(self, run_id: str) -> dict[str, Any] | None:
        """The job of the run's newest launch; None where Ray knows none."""
        try:
            job = self._client.info(submission_id(run_id, 1))
        except NotFoundError:  # perhaps one that was resumed after the head before was lost
            jobs = self._jobs_of(run_id)
            return jobs[-1] if jobs else None
        if not is_ours(job) or run_of(job) != run_id:
            raise NotFoundError(f"job {run_id} of cluster {self.profile.name} is not a run of trainwright")
        launch = 1
        while True:
            try:
                later = self._client.info(submission_id(run_id, launch + 1))
            except NotFoundError:
                return job
            if (
                not is_ours(later) or run_of(later) != run_id
            ):  # another run has the id that this launch would have
                return job
            job, launch = later, launch + 1

    def _jobs_of(self, run_id: str) -> Sequence[dict[str, Any]]:
        """The jobs of all of the run's launches that Ray knows, oldest first."""
        ours = (job for job in self._client.list() if is_ours(job) and run_of(job) == run_id)
        return sorted(ours, key=launch_of)

    def _status_of(self, job: dict[str, Any]) -> RunStatus:
        status = self._without_output(job)
        if job["status"] == "PENDING" or status.state is RunState.RUNNING:
            return status  # the record says it all, and the output of a long run is long
        return with_progress(status, self._client.logs(job["submission_id"]).splitlines())

    def _without_output(self, job: dict[str, Any]) -> RunStatus:
        """From Ray and the record alone: one small read for each run."""
        record = None
        if is_reachable_from_here(str(self.profile.storage)):
            with unreadable_left_out():
                record = storage_record(job_to_plan(job).storage).status(launch_of(job))
        return job_to_status(job, self.profile, record)

    def _record(self, plan: Plan) -> RunRecord:
        if is_reachable_from_here(str(self.profile.storage)):
            return storage_record(plan.storage)
        return remote_record(plan.storage, self.run_on_head)
