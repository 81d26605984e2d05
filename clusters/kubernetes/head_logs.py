"""The log of a run's heads: read from their pods while those are there, from the run's records before and after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.errors import NotYetError
from orchestrator.clusters.kubernetes.pod_templates import RUN_LOG_CONTAINER
from orchestrator.clusters.kubernetes.pods import Pods
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.request import RUN_ID, STORAGE
from orchestrator.clusters.kubernetes.run_log import EARLIER, News, rank_line, tells_end
from orchestrator.clusters.kubernetes.status import launch_of, ray_cluster_of, rayjob_to_status
from orchestrator.clusters.shared.log_lines import LineSplitter, rank_lines
from orchestrator.clusters.shared.moment import Moment
from orchestrator.clusters.shared.recorded_runs import RecordedRuns
from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.records import driver_log_name
from orchestrator.storage import is_uri

_PROGRESS_LINES = 400
"""Last lines of the log that a status looks at for metrics."""


class _End:
    """Whether a log has told the run's end. KubeRay notes it later, and not at all while its operator is away."""

    def __init__(self) -> None:
        self.was_told = False

    def look_at(self, line: str) -> None:
        """The next line of the log."""
        self.was_told |= tells_end(line)


class HeadLogs:
    """Reads the logs of RayJobs' heads.

    Args:
        server: Where the pods are.
        recorded: What its storage has, once pods are gone.
    """

    def __init__(self, server: ApiServer, recorded: RecordedRuns) -> None:
        self._server, self._profile = server, server.profile
        self._rayjobs, self._pods = RayJobs(server), Pods(server)
        self._recorded = recorded

    def pod(self, rayjob: dict[str, Any]) -> str | None:
        """The living head's pod of its Ray cluster."""
        if not (cluster := ray_cluster_of(rayjob)):
            return None
        alive = self._pods.alive(f"ray.io/cluster={cluster},ray.io/node-type=head")
        return alive[-1]["metadata"]["name"] if alive else None

    def has_ended(self, name: str) -> bool:
        """Whether a RayJob of this name has, as the API server says now."""
        return rayjob_to_status(self._rayjobs.get(name), self._profile).state.is_final

    def read_once(self, rayjob: dict[str, Any], rank: int | None) -> Iterator[str]:
        """What there is, from the pod or the records; workers' lines marked, as ``run_log.rank_line`` does."""
        pod = self.pod(rayjob)
        if pod is not None:
            with contextlib.suppress(NotYetError, NotFoundError):
                yield from self._pod_lines(rayjob["metadata"]["name"], pod)
                return
        yield from self._kept_lines(rayjob, rank)

    def followed(self, name: str, rank: int | None) -> Iterator[str]:
        """Lines of each head that the RayJob has, one after the other, until it has ended."""
        shown: set[str] = set()
        news = News()
        for rayjob in self._rayjobs.watch(name):
            has_ended = rayjob_to_status(rayjob, self._profile).state.is_final
            is_running = (rayjob.get("status") or {}).get("jobDeploymentStatus") == "Running"
            pod = self.pod(rayjob) if is_running or has_ended else None
            if pod is not None and pod not in shown:
                shown.add(pod)
                end = _End()
                with contextlib.suppress(NotFoundError, NotYetError):  # it went; perhaps another one comes
                    yield from news.of_a_head(self._pod_lines(name, pod, end))
                has_ended = end.was_told or self.has_ended(name)
            if has_ended:
                if not shown:
                    yield from self._kept_lines(rayjob, rank)
                return
        raise NotFoundError(f"cluster {self._profile.name}: RayJob {name} was deleted")

    def _pod_lines(self, name: str, pod: str, end: _End | None = None) -> Iterator[str]:
        """Lines of the run-log container. With ``end`` they are followed: a stream that breaks, or is silent, is taken up
        again behind the last line, until the run has ended, as its driver or KubeRay says; the container itself outlives it.
        """
        last, last_read = "", Moment()
        while True:
            is_last_look = end is None or end.was_told or self.has_ended(name)
            since, last_read = last_read if last else None, Moment()
            splitter = LineSplitter()
            is_following, is_silent = not is_last_look, True
            try:
                for piece in self._pods.log(pod, RUN_LOG_CONTAINER, follow=is_following, since=since):
                    for stamped in splitter.feed(piece):
                        stamp, _, line = stamped.partition(" ")
                        if stamp > last:
                            last, last_read, is_silent = stamp, Moment(), False
                            yield line
                            if end is not None:
                                end.look_at(line)
                    if end is not None and end.was_told and not is_last_look:
                        break  # what is behind it, the last look shows
            except NotYetError:
                if is_last_look:
                    raise
            if is_last_look:
                return
            if is_silent:  # a pod that starts or goes answers at once, again and again
                self._server.pause()

    def last_lines(self, pod: str) -> Sequence[str]:
        """The newest lines of a pod's log, few enough for a status. What an earlier head told as the end was none, since there
        is another head.
        """
        try:
            pieces = "".join(self._pods.log(pod, RUN_LOG_CONTAINER, follow=False, tail_lines=_PROGRESS_LINES))
        except NotYetError:
            return []
        lines = (line.partition(" ")[2] for line in pieces.splitlines())
        told = ((line.removeprefix(EARLIER), line.startswith(EARLIER)) for line in lines)
        return [line for line, is_earlier in told if not (is_earlier and tells_end(line))]

    def _kept_lines(self, rayjob: dict[str, Any], rank: int | None) -> Iterator[str]:
        """As a head's pod printed them, once it is gone; with a claim where the run has ended, which only pods reach."""
        if (
            not is_uri(str(self._profile.storage))
            and not rayjob_to_status(rayjob, self._profile).state.is_final
        ):
            return
        run_id = rayjob["metadata"]["annotations"][RUN_ID]
        try:
            lines = list(self.recorded_lines(run_id, launch_of(rayjob), rank))
        except InfrastructureError as error:
            raise InfrastructureError(
                f"the head pod of {rayjob['metadata']['name']} is gone, and its log, which lies in"
                f" {rayjob['metadata']['annotations'][STORAGE]}, can't be read: {error}"
            ) from None
        yield from lines if rank is None else (rank_line(0, rank, line) for line in lines)

    def recorded_lines(self, run_id: str, launch: int, rank: int | None) -> Iterator[str]:
        """Of the driver of a launch, or of one rank over all attempts, from the run's records."""
        record = self._recorded.record(run_id)
        if rank is not None:
            return rank_lines(record, rank, follow=False, has_ended=lambda: True)
        content = record.whole_log(driver_log_name(launch))
        return iter(content.decode(errors="replace").splitlines())
