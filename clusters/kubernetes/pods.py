"""The pods of a namespace: found, made and removed, a command run in one, a port of one reached, its log read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from orchestrator.clusters.kubernetes.api import CONNECT_SECONDS, ApiServer
from orchestrator.clusters.kubernetes.errors import UnknownUserError
from orchestrator.clusters.kubernetes.login import connect, credentials, log_in_again
from orchestrator.clusters.kubernetes.pod_command import PodCommand
from orchestrator.clusters.kubernetes.pod_tunnel import PodTunnel
from orchestrator.clusters.shared.moment import Moment
from orchestrator.errors import NotFoundError

_IDLE_LOG_SECONDS = 15.0
_OVERLAP_SECONDS = 30
"""A log that is taken up again is read from so long before: its clock is not ours."""


class Pods:
    """As objects of the API server. Every method may raise what ``ApiServer`` says."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def with_labels(self, selector: str) -> list[dict[str, Any]]:
        """All with some labels."""
        every = self._server.core().list_namespaced_pod
        return self._server.pages("pods", every, self._server.namespace, label_selector=selector)

    def alive(self, selector: str) -> list[dict[str, Any]]:
        """Those with some labels that are not being removed."""
        return [pod for pod in self.with_labels(selector) if not pod["metadata"].get("deletionTimestamp")]

    def get(self, name: str) -> dict[str, Any]:
        """One of them."""
        get = self._server.core().read_namespaced_pod
        return self._server.call("get", "pods", get, name, self._server.namespace)

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create one."""
        create = self._server.core().create_namespaced_pod
        return self._server.call("create", "pods", create, self._server.namespace, body)

    def delete(self, name: str) -> None:
        """Remove one; no matter if it is gone already."""
        delete = self._server.core().delete_namespaced_pod
        try:
            self._server.call("delete", "pods", delete, name, self._server.namespace)
        except NotFoundError:
            return

    def run(
        self, name: str, command: Sequence[str], on_close: Callable[[], None] = lambda: None
    ) -> PodCommand:
        """Start a command in a pod's only container, with its input and output at hand."""
        # of its own: the client's way to a stream puts another call in the place of the one that all threads share
        profile = self._server.profile
        return PodCommand(profile, connect(profile), name, command, on_close)

    def connect(self, name: str, port: int) -> PodTunnel:
        """A connection to a port of one."""
        profile, client = self._server.profile, self._server.client()
        sent = credentials(client)
        try:
            return PodTunnel(profile, client, name, port)
        except UnknownUserError:
            if not log_in_again(profile, client, sent):
                raise
            return PodTunnel(profile, client, name, port)

    def log(
        self,
        name: str,
        container: str,
        *,
        follow: bool,
        tail_lines: int | None = None,
        since: Moment | None = None,
    ) -> Iterator[str]:
        """Pieces of a container's output, each line behind its time stamp. With ``follow`` until the container or
        the connection ends, or nothing came for a quarter of a minute. With ``since`` only lines that came later, and
        those of half a minute before.
        """
        from urllib3.exceptions import HTTPError

        def read(*arguments: Any, **options: Any) -> Any:
            # counted anew for each try: minutes may pass between two of them
            if since is not None:
                options["since_seconds"] = round(since.seconds_ago()) + _OVERLAP_SECONDS
            return self._server.core().read_namespaced_pod_log(*arguments, **options)

        more: dict[str, Any] = {} if tail_lines is None else {"tail_lines": tail_lines}
        if follow:
            more["_request_timeout"] = (CONNECT_SECONDS, _IDLE_LOG_SECONDS)
        response = self._server.answer(
            "get",
            "pods/log",
            read,
            name,
            self._server.namespace,
            container=container,
            follow=follow,
            timestamps=True,
            **more,
        )
        try:
            for piece in response.stream(decode_content=True):
                yield piece.decode(errors="replace")
        except HTTPError:
            return
        finally:
            response.close()
