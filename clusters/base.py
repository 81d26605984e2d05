"""The Cluster protocol: the same verbs on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from orchestrator.clusters.shared.uploads.target import UploadTarget
from orchestrator.planning.plan import DataFacts, Plan
from orchestrator.runs import RunStatus
from orchestrator.section import Section
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import Store

Revise = Callable[[Plan], Plan]
"""From the plan that a run was launched with to the one of its next launch."""


class Request(Section):
    """What would be sent to a cluster: printable, pure, made without a network."""

    kind: str
    """``process``, ``ray_job`` or ``rayjob_manifest``."""
    run_id: str
    """The run it starts."""
    body: dict[str, Any]
    """The command, the Jobs API payload or the manifest. Holds no secret."""
    plan: Plan
    """The plan that the driver will be given."""


class Cluster(Protocol):
    """A place where runs run. Every method may raise InfrastructureError; each says what else."""

    profile: ClusterProfile

    def render(self, plan: Plan) -> Request:
        """Pure: what ``submit`` would send. Raises SpecError where the plan can never run here."""
        ...

    def submit(self, request: Request) -> RunStatus:
        """Start the run and return at once. Idempotent by run id: a second submit returns the first's status."""
        ...

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Launch an ended run again from its newest good checkpoint, with its last plan or what ``revise`` makes
        of that. Raises NotFoundError; SpecError where it has not ended or has nothing left to do.
        """
        ...

    def status(self, run_id: str) -> RunStatus:
        """How it stands. Raises NotFoundError."""
        ...

    def plan(self, run_id: str) -> Plan:
        """The plan of its newest launch, with its storage as the cluster's nodes reach it. Raises NotFoundError."""
        ...

    def list(self) -> list[RunStatus]:
        """All runs that the cluster still knows, newest first."""
        ...

    def forgotten(self) -> Sequence[RunStatus]:
        """All runs of which its storage has records, in no order, each as it stands where the cluster knows it no more; one
        that ``list`` has as well stands as it says there.
        """
        ...

    def logs(self, run_id: str, *, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """Lines (without line ends) of the driver, or of one rank over all attempts; with ``follow`` until the
        run has ended. Raises NotFoundError, at once where there is no such run, and at the end of no lines where
        the rank wrote none.
        """
        ...

    def stop(self, run_id: str, *, now: bool = False) -> RunStatus:
        """Ask for a graceful stop (finish the step, save), or end it ``now``. Returns at once; idempotent; an ended
        run stays as it is. Raises NotFoundError.
        """
        ...

    def delete(self, run_id: str) -> None:
        """Remove an ended run: its files, then what the cluster itself keeps of it. Ends what was begun and killed.

        Raises NotFoundError; SpecError where it has not ended; InfrastructureError also where only the cluster reaches
        its storage and can't be asked to.
        """
        ...

    def storage(self, below: str = "") -> Store:
        """Where the cluster's ``runs`` and ``cache`` lie, or a folder below that. Raises InfrastructureError where this
        process can't reach it.
        """
        ...

    def upload_target(self, place: str, *, replace: bool) -> UploadTarget:
        """What takes data of a person's to a place that its jobs read. Raises SpecError where they read it where it lies
        already, InfrastructureError where nothing of this machine's reaches the place.
        """
        ...

    def look_at_data(self, job: JobSpec, base_dir: str) -> DataFacts | None:
        """What is known of a job's data, looked at on the cluster where this process can't read it; None where it is for this
        process to look. Raises DataError as ``data.inspect`` does.
        """
        ...

    def ping(self) -> str:
        """One line that says the cluster answers (versions, nodes). Raises InfrastructureError with the reason."""
        ...
