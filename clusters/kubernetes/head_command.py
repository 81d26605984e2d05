"""A command that runs for a moment where a run's driver would."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.errors import ImageError
from orchestrator.clusters.kubernetes.head_logs import HeadLogs
from orchestrator.clusters.kubernetes.live_status import LiveStatus
from orchestrator.clusters.kubernetes.pod_problems import ImageWatch
from orchestrator.clusters.kubernetes.pods import Pods
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.sending import send
from orchestrator.clusters.kubernetes.status import ray_cluster_of
from orchestrator.clusters.kubernetes.storage_access import StorageAccess
from orchestrator.clusters.shared.safe_names import rayjob_name
from orchestrator.errors import InfrastructureError
from orchestrator.planning.plan import Plan
from orchestrator.runs import RunState

_LOOK_SECONDS = 2.0


def run_on_head(server: ApiServer, plan: Plan, command: Sequence[str], *, mark: str, seconds: float) -> str:
    """The line of a command's output that begins with ``mark``, behind the mark. The command takes the driver's
    place in a run of this plan, of which nothing is left afterwards but its log in the storage.

    Raises:
        ImageError: an image of its pods does not come.
        InfrastructureError: it ended, or the time was over, without such a line; with what is known of why.
    """
    storage = StorageAccess(server)
    statuses, heads = LiveStatus(server, storage), HeadLogs(server, storage.recorded)
    rayjobs, pods, images = RayJobs(server), Pods(server), ImageWatch()
    name = rayjob_name(plan.run_id, 1)
    deadline = time.monotonic() + seconds
    send(server, plan, 1, command)
    try:
        has_ended = False
        while True:
            rayjob = rayjobs.get(name)
            status = statuses.of(rayjob)
            pod = None if status.state is RunState.PENDING else heads.pod(rayjob)
            for line in heads.last_lines(pod) if pod else ():
                if line.startswith(mark):
                    return line.removeprefix(mark)
            cluster = ray_cluster_of(rayjob)
            if problem := images.problem(pods.with_labels(f"ray.io/cluster={cluster}") if cluster else ()):
                raise ImageError(problem)
            if has_ended or time.monotonic() >= deadline:
                how = "ended without an answer" if has_ended else f"gave no answer within {seconds:g}s"
                raise InfrastructureError(f"a RayJob {how}: {status.message or status.state}")
            has_ended = status.state.is_final  # its last lines may be a moment behind its end
            time.sleep(_LOOK_SECONDS)
    finally:
        rayjobs.delete(name)
