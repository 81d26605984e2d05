"""Kubernetes, through KubeRay: one RayJob for each launch of a run."""

from __future__ import annotations

import base64
import contextlib
import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.clusters.base import Request, Revise
from orchestrator.clusters.kubernetes.api import KubernetesApi
from orchestrator.clusters.kubernetes.errors import AlreadyThereError, ImageError, NoRightError
from orchestrator.clusters.kubernetes.head_logs import HeadLogs
from orchestrator.clusters.kubernetes.pod_problems import ImageWatch, pods_problem, queue_problem
from orchestrator.clusters.kubernetes.pod_waits import waited_for
from orchestrator.clusters.kubernetes.request import (
    DIGEST,
    LARGEST_CONFIG_MAP_BYTES,
    PACKAGE_IN_CONFIG_MAP,
    PLAN_KEY,
    RUN_ID,
    RUN_LABEL,
    STORAGE,
    plan_to_config_map,
    plan_to_rayjob,
    stop_patch,
)
from orchestrator.clusters.kubernetes.run_log import EARLIER, parse_rank_line
from orchestrator.clusters.kubernetes.short_pod import ShortPod
from orchestrator.clusters.kubernetes.status import (
    half_sent,
    launch_of,
    ray_cluster_of,
    rayjob_to_status,
    run_label_of,
)
from orchestrator.clusters.shared import data_look
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
from orchestrator.clusters.shared.packaging import pack
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.clusters.shared.recorded_runs import RecordedRuns
from orchestrator.clusters.shared.run_records import storage_record, unreadable_left_out
from orchestrator.clusters.shared.safe_names import label_value, rayjob_name
from orchestrator.clusters.shared.stores import ExplainedStore, RemoteStore
from orchestrator.clusters.shared.uploads import wire
from orchestrator.clusters.shared.uploads.bucket import BucketTarget
from orchestrator.clusters.shared.uploads.target import UploadTarget
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError, TrainwrightError
from orchestrator.planning.plan import DataFacts, Plan
from orchestrator.records import SUBMITTED, RunRecord
from orchestrator.runs import Began, RunState, RunStatus
from orchestrator.section import format_bytes
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile, MountedClaim
from orchestrator.storage import Store, is_uri
from orchestrator.storage.arrow import has_arrow

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_READERS = 16
"""Records read at once for a list."""


class KubernetesCluster:
    """The Cluster protocol over RayJobs in one namespace.

    Args:
        profile: Of kind kubernetes.
        api: For tests; default: connects when first needed.
    """

    def __init__(self, profile: ClusterProfile, api: KubernetesApi | None = None) -> None:
        self.profile = profile
        self._api = api or KubernetesApi(profile)
        self._is_object_store = is_uri(str(profile.storage))
        self._reads_storage = self._is_object_store and has_arrow()
        self._short_pods: dict[str, ShortPod] = {}

    def render(self, plan: Plan) -> Request:
        """The RayJob that would be created. Reads the working directory, and nothing else."""
        body, _ = self._rendered(plan, 1)
        return Request(kind="rayjob_manifest", run_id=plan.run_id, body=body, plan=plan)

    def submit(self, request: Request) -> RunStatus:
        """Let the server check the RayJob and its ConfigMap, then create both; neither is left without the other."""
        return self._send(request.plan, 1)

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Another RayJob with the plan of the last, or its revision, and the working directory as it is now. Where a command
        was killed while it sent one, what that lacks.
        """
        rayjob = self._known(run_id)
        if rayjob is None:
            return self._resume_forgotten(run_id, revise)
        status = self._status_of(rayjob)
        is_half_sent = status.launch > 1 and self._is_half_sent(rayjob, status)
        launch = status.launch if is_half_sent else next_launch(status)
        plan = self._plan_of(rayjob)
        if self._reads_storage:
            refuse_deleted(storage_record(plan.storage), run_id)
        plan = plan if revise is None else revise(plan)
        refuse_nothing_left(status, plan)
        if is_half_sent:
            return self._send(plan, launch, before=status.before)
        return self._send(plan, launch, before=None if self._has_begun(rayjob) else status)

    def _resume_forgotten(self, run_id: str, revise: Revise | None) -> RunStatus:
        """The same from the run's records alone; one that has no end there was lost with its RayJob."""
        status = self._forgotten(run_id)
        plan = self._recorded.to_resume(status)
        launch = next_launch(status)
        plan = plan if revise is None else revise(plan)
        refuse_nothing_left(status, plan)
        self._rendered(plan, launch)  # what can't be sent is refused before anything is written
        self._recorded.end(status)
        return self._send(plan, launch)

    def status(self, run_id: str) -> RunStatus:
        """From the RayJob, the run's records, its log, and its pods where they don't run; of a run whose RayJobs are gone from
        its records.
        """
        rayjob = self._known(run_id)
        return self._forgotten(run_id) if rayjob is None else self._status_of(rayjob)

    def plan(self, run_id: str) -> Plan:
        """From the ConfigMap of its newest launch; of a run whose RayJobs are gone from its records."""
        rayjob = self._known(run_id)
        if rayjob is None:
            return self._recorded.plan(run_id, self._forgotten(run_id).launch)
        return self._plan_of(rayjob)

    def logs(self, run_id: str, *, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """From the pod while it is there, from the run's records before and after. With ``follow`` through minutes without an
        API server.
        """
        if not follow:
            return self._lines_of(run_id, follow=False, rank=rank)
        reader = KubernetesCluster(self.profile, self._api.following())
        reader._short_pods = self._short_pods
        return reader._lines_of(run_id, follow=True, rank=rank)

    def _lines_of(self, run_id: str, *, follow: bool, rank: int | None) -> Iterator[str]:
        rayjob = self._known(run_id)
        if rayjob is None:
            lines = self._heads.recorded_lines(run_id, self._forgotten(run_id).launch, rank)
            return lines if rank is None else some_lines(lines, run_id, rank)
        name = rayjob["metadata"]["name"]
        if rank is not None and self._reads_storage:
            record = storage_record(rayjob["metadata"]["annotations"][STORAGE])
            has_ended = partial(self._heads.has_ended, name)
            return some_lines(rank_lines(record, rank, follow=follow, has_ended=has_ended), run_id, rank)
        lines = self._heads.followed(name, rank) if follow else self._heads.read_once(rayjob, rank)
        if rank is None:
            return (line.removeprefix(EARLIER) for line in lines if parse_rank_line(line) is None)
        marked = (parse_rank_line(line) for line in lines)
        return some_lines((found[2] for found in marked if found and found[1] == rank), run_id, rank)

    def stop(self, run_id: str, *, now: bool = False) -> RunStatus:
        """A graceful stop through storage or, where only pods reach that, through the run's ConfigMap within about a
        minute. ``now``, or before the driver lives, the RayJob is ended.
        """
        rayjob = self._known(run_id)
        if rayjob is None:
            return self._forgotten(run_id)
        status = self._status_of(rayjob)
        if status.state.is_final:
            return status
        metadata = rayjob["metadata"]
        if now or status.state is RunState.PENDING:
            return self._end_now(rayjob, status.waited)
        if self._reads_storage:
            storage_record(metadata["annotations"][STORAGE]).ask_to_stop(status.launch)
            return status.at(RunState.STOPPING)
        try:
            self._api.patch_config_map(metadata["name"], {"data": {f"stop-{status.launch}": ""}})
        except NotFoundError:  # its command was killed before it made one, so no driver can live
            return self._end_now(rayjob)
        return status.at(RunState.STOPPING)

    def _end_now(self, rayjob: dict[str, Any], waited: Sequence[Began] = ()) -> RunStatus:
        ended = self._api.patch_rayjob(
            rayjob["metadata"]["name"], stop_patch(rayjob, self.profile, time.time(), waited)
        )
        return rayjob_to_status(ended, self.profile)

    def delete(self, run_id: str) -> None:
        """Remove an ended run's files, also of one whose RayJobs are gone, then its RayJobs with what they own."""
        store = self.storage(folder_of(run_id))
        record = RunRecord(store.root, store)
        rayjobs = self._api.rayjobs(f"{RUN_LABEL}={label_value(run_id)}")
        if rayjobs:
            refuse_living(self._status_of(max(rayjobs, key=launch_of)))
        elif not record.is_deleted:
            refuse_forgotten(record.status(), run_id, self.profile.name)
        record.delete()
        for rayjob in sorted(rayjobs, key=launch_of, reverse=True):
            self._api.delete_rayjob(rayjob["metadata"]["name"])

    def storage(self, below: str = "") -> Store:
        """The bucket, or the claim through a short pod that mounts it."""
        place = f"{self.profile.storage}/{below}".rstrip("/")
        if self._is_object_store:
            return ExplainedStore(place)
        return RemoteStore(place, self._short_pod_for(str(self.profile.storage)).run)

    def upload_target(self, place: str, *, replace: bool) -> UploadTarget:
        """The bucket, or a command in a pod that mounts the claim in which the place lies."""
        if is_uri(place):
            return BucketTarget(place, replace=replace)
        command = self._short_pod_for(place).start(wire.COMMAND, is_last=True)
        return wire.RemoteTarget(place, command, replace=replace)

    def _short_pod_for(self, place: str) -> ShortPod:
        """With the claim in which a path of the pods lies; the same one while this lives."""
        mounted = next(one for one in self._claims() if _lies_in(place, one))
        if mounted.path not in self._short_pods:
            self._short_pods[mounted.path] = ShortPod(self.profile, self._api, (mounted,))
        return self._short_pods[mounted.path]

    def _claims(self) -> tuple[MountedClaim, ...]:
        """All that the pods of a job mount."""
        options = self.profile.kubernetes
        if self._is_object_store:
            return options.claims
        storage = MountedClaim(
            claim=str(options.storage_claim), path=str(self.profile.storage), read_only=False
        )
        return (*options.claims, storage)

    def look_at_data(self, job: JobSpec, base_dir: str) -> DataFacts | None:
        """In a pod that mounts what those of the job do: where it lies in a claim, or this process has no Arrow to read with."""
        unseen = [one for one in self._claims() if not Path(one.path).is_dir()]
        is_there = any(_lies_in(place, one) for place in data_look.places_of(job, base_dir) for one in unseen)
        if data_look.reads_data_here() and not is_there:
            return None
        pod = ShortPod(self.profile, self._api, self._claims())
        command = pod.start(data_look.COMMAND, is_last=True)
        command.write(data_look.question(job, base_dir, f"{self.profile.storage}/cache"))
        return data_look.facts_of(command.result(), self.profile.name)

    def run_on_head(self, plan: Plan, command: Sequence[str], *, mark: str, seconds: float) -> str:
        """The line of a command's output that begins with ``mark``, behind the mark. The command takes the driver's
        place in a run of this plan, of which nothing is left afterwards but its log in the storage.

        Raises:
            ImageError: an image of its pods does not come.
            InfrastructureError: it ended, or the time was over, without such a line; with what is known of why.
        """
        name = rayjob_name(plan.run_id, 1)
        images = ImageWatch()
        deadline = time.monotonic() + seconds
        self._send(plan, 1, command)
        try:
            has_ended = False
            while True:
                rayjob = self._api.rayjob(name)
                status = self._status_of(rayjob)
                pod = None if status.state is RunState.PENDING else self._heads.pod(rayjob)
                for line in self._heads.last_lines(pod) if pod else ():
                    if line.startswith(mark):
                        return line.removeprefix(mark)
                cluster = ray_cluster_of(rayjob)
                if problem := images.problem(self._api.pods(f"ray.io/cluster={cluster}") if cluster else ()):
                    raise ImageError(problem)
                if has_ended or time.monotonic() >= deadline:
                    how = "ended without an answer" if has_ended else f"gave no answer within {seconds:g}s"
                    raise InfrastructureError(f"a RayJob {how}: {status.message or status.state}")
                has_ended = status.state.is_final  # its last lines may be a moment behind its end
                time.sleep(_LOOK_SECONDS)
        finally:
            self._api.delete_rayjob(name)

    def ping(self) -> str:
        """The server's version, and that it knows RayJobs and lets us list them."""
        version = self._api.version()
        if not self._api.rayjob_crd_is_served():
            raise InfrastructureError(
                f"cluster {self.profile.name}: Kubernetes {version} answers but knows no RayJobs (ray.io/v1); install"
                " the KubeRay operator 1.7"
            )
        count = len(self._api.rayjobs("app.kubernetes.io/managed-by=trainwright"))
        return f"Kubernetes {version}, namespace {self._api.namespace}, {count} runs"

    # -- sending -----------------------------------------------------------------------------------------------

    def _rendered(
        self, plan: Plan, launch: int, before: RunStatus | None = None
    ) -> tuple[dict[str, Any], bytes | None]:
        """The RayJob and the working directory's package, if there is one."""
        if plan.job.environment.working_dir is None:
            return plan_to_rayjob(plan, self.profile, launch, None, before), None
        package = pack(plan, with_own_code=False)
        size = len(base64.b64encode(package)) + len(plan.model_dump_json())
        if size <= LARGEST_CONFIG_MAP_BYTES:
            return plan_to_rayjob(plan, self.profile, launch, PACKAGE_IN_CONFIG_MAP, before), package
        if not self._is_object_store:
            raise SpecError(
                f"environment.working_dir: its package and the plan have {format_bytes(size)}, but a ConfigMap holds"
                f" {format_bytes(LARGEST_CONFIG_MAP_BYTES)}; build the code into the image, leave files out with"
                " .trainwrightignore, or use a profile whose storage is s3:// or gs://"
            )
        place = f"{plan.storage}/{_package_name(launch)}"
        return plan_to_rayjob(plan, self.profile, launch, place, before), package

    def _send(
        self,
        plan: Plan,
        launch: int,
        command: Sequence[str] | None = None,
        before: RunStatus | None = None,
    ) -> RunStatus:
        body, package = self._rendered(plan, launch, before)
        if command is not None:
            body["spec"]["entrypoint"] = shlex.join(command)
        in_config_map = PACKAGE_IN_CONFIG_MAP in body["spec"]["runtimeEnvYAML"]
        content = base64.b64encode(package).decode() if package is not None and in_config_map else None
        config_map = plan_to_config_map(plan, self.profile, launch, content)
        if len(config_map["data"][PLAN_KEY]) > LARGEST_CONFIG_MAP_BYTES:
            raise SpecError("the plan is larger than a ConfigMap may be; shorten the job file")
        is_new = True
        try:
            self._api.create_rayjob(body, dry_run=True)
            with contextlib.suppress(AlreadyThereError):
                self._api.create_config_map(config_map, dry_run=True)
            if package is not None and not in_config_map:
                ExplainedStore(plan.storage).write(_package_name(launch), package)
            rayjob = self._api.create_rayjob(body)
        except AlreadyThereError:
            is_new = False
            rayjob = self._ours(body)
        status = rayjob_to_status(rayjob, self.profile)
        config_map["metadata"]["ownerReferences"] = [_owner(rayjob)]
        config_map["data"][SUBMITTED] = str(status.submitted_at)
        try:
            with contextlib.suppress(AlreadyThereError):
                self._api.create_config_map(config_map)
        except TrainwrightError:
            if is_new:
                self._api.delete_rayjob(body["metadata"]["name"])
            raise
        return status

    def _ours(self, body: dict[str, Any]) -> dict[str, Any]:
        """The RayJob that has the name already, where it is this one."""
        rayjob = self._api.rayjob(body["metadata"]["name"])
        notes = rayjob["metadata"].get("annotations") or {}
        if any(notes.get(key) != body["metadata"]["annotations"][key] for key in (RUN_ID, DIGEST)):
            raise SpecError(
                f"cluster {self.profile.name}: namespace {self._api.namespace} has another RayJob named"
                f" {body['metadata']['name']}; submit again for a fresh id"
            )
        return rayjob

    # -- finding -----------------------------------------------------------------------------------------------

    def _known(self, run_id: str) -> dict[str, Any] | None:
        """The RayJob of the run's newest launch; None where there is none, or no longer."""
        return max(self._api.rayjobs(f"{RUN_LABEL}={label_value(run_id)}"), key=launch_of, default=None)

    @property
    def _recorded(self) -> RecordedRuns:
        """What the storage has of runs: read from here, or through a short pod that mounts the claim."""
        if self._is_object_store:
            return RecordedRuns(self.profile)
        return RecordedRuns(self.profile, self._short_pod_for(str(self.profile.storage)).run)

    @property
    def _heads(self) -> HeadLogs:
        return HeadLogs(self._api, self.profile, self._recorded)

    def _forgotten(self, run_id: str) -> RunStatus:
        """How a run without a RayJob stands by its records. Raises NotFoundError where there are none."""
        unknown = f"cluster {self.profile.name} knows no run {run_id}"
        try:
            found = self._recorded.forgotten(run_id)
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
                config_map = self._api.config_map(rayjob_name(run_id, launch))
                return Plan.model_validate_json(config_map["data"][PLAN_KEY])
        raise SpecError(
            f"run {run_id} has no plan: the command that submitted it was killed before it was stored, and nothing of it"
            " has run; submit the job again"
        )

    def list(self) -> list[RunStatus]:
        """The newest launch of each run whose RayJob is still there, from one call; from two where a run waits for
        its pods. Step and metrics of each from its record, where the storage can be read from here.
        """
        rayjobs = self._api.rayjobs("app.kubernetes.io/managed-by=trainwright")
        newest = newest_launches(rayjobs, run_label_of, launch_of)
        problems = self._problems_of_pods(newest)
        with ThreadPoolExecutor(_READERS) as readers:
            records = readers.map(self._record_of, newest)
            found = [
                rayjob_to_status(rayjob, self.profile, record, problems.get(ray_cluster_of(rayjob)))
                for rayjob, record in zip(newest, records, strict=True)
            ]
        return sorted(found, key=lambda status: status.submitted_at, reverse=True)

    def forgotten(self) -> Sequence[RunStatus]:
        """As runs stand whose RayJobs are gone; with a claim from one command in a short pod."""
        return self._recorded.all_forgotten()

    # -- looking -----------------------------------------------------------------------------------------------

    def _status_of(self, rayjob: dict[str, Any]) -> RunStatus:
        record = self._record_of(rayjob)
        status = rayjob_to_status(rayjob, self.profile, record)
        if self._is_half_sent(rayjob, status):
            return rayjob_to_status(rayjob, self.profile, record, half_sent(status))
        if status.state is RunState.PENDING:
            pods = self._pods(rayjob)
            status = rayjob_to_status(rayjob, self.profile, record, self._problem(rayjob, pods))
            return status if record else status.having_waited(waited_for(rayjob, pods))
        is_untold = status.state.is_final and record is None and not status.waited
        if is_untold and not self._has_begun(rayjob):
            status = status.having_waited(waited_for(rayjob, self._pods(rayjob)))
        if record is None and (pod := self._heads.pod(rayjob)):
            # KubeRay notes an end later than the driver tells it, and not at all while its operator is away
            status = with_progress(status, self._heads.last_lines(pod), told_end_holds=True)
        elif record is None and status.state.is_final and (rayjob.get("status") or {}).get("jobStatus"):
            status = self._with_kept_record(status)
        if status.state is RunState.STARTING and (problem := self._problem(rayjob, self._pods(rayjob))):
            # the head runs and its driver waits for workers: autoscaled ones, or one that was lost and is made again
            return status.saying(problem)
        return status

    def _with_kept_record(self, status: RunStatus) -> RunStatus:
        """With what the run says of itself in a claim, once no pod of it tells; as it is for who may not look there."""
        try:
            record = self._recorded.status(status.run_id, status.launch)
        except InfrastructureError as error:
            log.warning("its last steps and values are in the storage claim, which can't be read: %s", error)
            return status
        return status if record is None else status.with_record(record)

    def _is_half_sent(self, rayjob: dict[str, Any], status: RunStatus) -> bool:
        """Whether it waits for a ConfigMap that its command never made."""
        if status.state is not RunState.PENDING:
            return False
        try:
            self._api.config_map(rayjob["metadata"]["name"])
        except NotFoundError:
            return True
        return False

    def _has_begun(self, rayjob: dict[str, Any]) -> bool:
        """Whether a launch has had a driver; of records in a claim the next driver knows better."""
        if self._reads_storage:
            record = storage_record(rayjob["metadata"]["annotations"][STORAGE])
            return record.newest_driver(launch_of(rayjob)) > 0
        return bool((rayjob.get("status") or {}).get("jobStatus"))

    def _record_of(self, rayjob: dict[str, Any]) -> RunStatus | None:
        """What the run says of itself, where its storage can be read from here."""
        if not self._reads_storage:
            return None
        with unreadable_left_out():
            return storage_record(rayjob["metadata"]["annotations"][STORAGE]).status(launch_of(rayjob))
        return None

    def _pods(self, rayjob: dict[str, Any]) -> Sequence[dict[str, Any]]:
        """Of its newest Ray cluster."""
        cluster = ray_cluster_of(rayjob)
        return self._api.pods(f"ray.io/cluster={cluster}") if cluster else ()

    def _problem(self, rayjob: dict[str, Any], pods: Iterable[dict[str, Any]]) -> str | None:
        status = rayjob.get("status") or {}
        if (queue := self.profile.kubernetes.queue) and rayjob["spec"].get("suspend"):
            try:
                return queue_problem(self._api.workloads(rayjob["metadata"].get("uid", "")))
            except NoRightError:
                return f"waiting in queue {queue}; you have no right to list workloads, which say for what"
        if not (cluster := status.get("rayClusterName")):
            return None
        ray_cluster = None
        with contextlib.suppress(NotFoundError):
            ray_cluster = self._api.ray_cluster(cluster)
        return pods_problem(pods, ray_cluster)

    def _problems_of_pods(self, rayjobs: Iterable[dict[str, Any]]) -> dict[str, str]:
        """Ray cluster -> why its pods do not run, for those of runs that wait."""
        waiting = {
            ray_cluster_of(rayjob)
            for rayjob in rayjobs
            if ray_cluster_of(rayjob) and rayjob_to_status(rayjob, self.profile).state is RunState.PENDING
        }
        pods: dict[str, list[dict[str, Any]]] = {}
        for pod in self._api.pods(RUN_LABEL) if waiting else ():
            pods.setdefault(pod["metadata"]["labels"].get("ray.io/cluster", ""), []).append(pod)
        found = {cluster: pods_problem(pods.get(cluster, [])) for cluster in waiting}
        return {cluster: problem for cluster, problem in found.items() if problem}


def _lies_in(place: str, mounted: MountedClaim) -> bool:
    return f"{place}/".startswith(f"{mounted.path.rstrip('/')}/")


def _package_name(launch: int) -> str:
    return f"launches/{launch}/working-dir.zip"


def _owner(rayjob: dict[str, Any]) -> dict[str, Any]:
    metadata = rayjob["metadata"]
    return {
        "apiVersion": rayjob["apiVersion"],
        "kind": rayjob["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": False,
    }
