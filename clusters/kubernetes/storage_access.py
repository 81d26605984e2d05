"""How this process reaches a cluster's storage, and the claims that its jobs mount: itself, or through short pods."""

from __future__ import annotations

from pathlib import Path

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.short_pod import ShortPod
from orchestrator.clusters.shared import data_look
from orchestrator.clusters.shared.recorded_runs import RecordedRuns
from orchestrator.clusters.shared.stores import ExplainedStore, RemoteStore
from orchestrator.clusters.shared.uploads import wire
from orchestrator.clusters.shared.uploads.bucket import BucketTarget
from orchestrator.clusters.shared.uploads.target import UploadTarget
from orchestrator.planning.plan import DataFacts
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import MountedClaim
from orchestrator.storage import Store, is_uri
from orchestrator.storage.arrow import has_arrow


class StorageAccess:
    """Of one cluster. Every method raises InfrastructureError where the storage, or a short pod, does not answer."""

    def __init__(self, server: ApiServer) -> None:
        self._server, self._profile = server, server.profile
        self._short_pods: dict[str, ShortPod] = {}
        self.is_object_store = is_uri(str(self._profile.storage))
        """Whether the storage is a bucket; else it is a claim, which only pods reach."""
        self.is_read_here = self.is_object_store and has_arrow()
        """Whether this process can read it."""
        self.recorded = (
            RecordedRuns(self._profile)
            if self.is_object_store
            else RecordedRuns(self._profile, self._short_pod_for(str(self._profile.storage)).run)
        )
        """What it has of runs."""

    def store(self, below: str = "") -> Store:
        """All of it, or a folder."""
        place = f"{self._profile.storage}/{below}".rstrip("/")
        if self.is_object_store:
            return ExplainedStore(place)
        return RemoteStore(place, self._short_pod_for(str(self._profile.storage)).run)

    def upload_target(self, place: str, *, replace: bool) -> UploadTarget:
        """What takes data to a place: a bucket, or a path of the pods."""
        if is_uri(place):
            return BucketTarget(place, replace=replace)
        command = self._short_pod_for(place).start(wire.COMMAND, is_last=True)
        return wire.RemoteTarget(place, command, replace=replace)

    def look_at_data(self, job: JobSpec, base_dir: str) -> DataFacts | None:
        """What a pod with all claims finds; None where this process can look itself. Raises DataError as ``data.inspect``."""
        claims = self._claims()
        unseen = [one for one in claims if not Path(one.path).is_dir()]
        is_there = any(_lies_in(place, one) for place in data_look.places_of(job, base_dir) for one in unseen)
        if data_look.reads_data_here() and not is_there:
            return None
        command = ShortPod(self._server, claims).start(data_look.COMMAND, is_last=True)
        command.write(data_look.question(job, base_dir, f"{self._profile.storage}/cache"))
        return data_look.facts_of(command.result(), self._profile.name)

    def _short_pod_for(self, place: str) -> ShortPod:
        """With the claim in which a path of the pods lies; the same one while this lives."""
        mounted = next(one for one in self._claims() if _lies_in(place, one))
        if mounted.path not in self._short_pods:
            self._short_pods[mounted.path] = ShortPod(self._server, (mounted,))
        return self._short_pods[mounted.path]

    def _claims(self) -> tuple[MountedClaim, ...]:
        """All that the pods of a job mount."""
        options = self._profile.kubernetes
        if self.is_object_store:
            return options.claims
        storage = MountedClaim(
            claim=str(options.storage_claim), path=str(self._profile.storage), read_only=False
        )
        return (*options.claims, storage)


def _lies_in(place: str, mounted: MountedClaim) -> bool:
    return f"{place}/".startswith(f"{mounted.path.rstrip('/')}/")
