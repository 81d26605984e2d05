"""One connection to a port of a pod, over the API server's port-forward stream."""

from __future__ import annotations

import contextlib
import copy
import io
import select
import socket
from typing import Any

from websocket import ABNF, WebSocketBadStatusException, WebSocketException

from orchestrator.clusters.kubernetes.errors import refusal
from orchestrator.clusters.shared.connection import connection_problem
from orchestrator.spec.profile import ClusterProfile

_DATA, _ERRORS = 0, 1
"""Channels of the stream's only port. The first frame of each says which port it is."""
_LARGEST_FRAME_BYTES = 2**16


class PodTunnel:
    """Bytes to and from a port, as a socket carries them. For one thread, but for ``abort``.

    ``sendall`` and ``receive`` raise ConnectionError where the connection is lost, or nothing listens in the pod.

    Args:
        profile: whose cluster it is.
        client: an ``ApiClient``; it stays as it is.
        pod: where the port is.
        port: its number.

    Raises:
        InfrastructureError, NotFoundError: no such right, no such pod, no answer.
    """

    def __init__(self, profile: ClusterProfile, client: Any, pod: str, port: int) -> None:
        from kubernetes import client as api

        def connect(method: str, url: str, **options: Any) -> Any:
            from kubernetes.stream.ws_client import create_websocket, get_websocket_url

            address = get_websocket_url(url, options.get("query_params"))
            return create_websocket(client.configuration, address, options.get("headers"))

        own = copy.copy(client)  # in it the socket takes the place of an answer
        own.request = connect
        try:
            self._websocket = api.CoreV1Api(own).connect_get_namespaced_pod_portforward(
                pod, profile.kubernetes.namespace, ports=str(port), _preload_content=False
            )
        except WebSocketBadStatusException as error:
            said = (error.resp_body or b"").decode(errors="replace")
            raise refusal(profile, "create", "pods/portforward", error.status_code, said) from None
        except (WebSocketException, OSError) as error:
            raise refusal(profile, "create", "pods/portforward", 0, connection_problem(error)) from None
        self._known: set[int] = set()
        self._received = b""

    def sendall(self, content: Any) -> None:
        """Send all of it."""
        view = memoryview(content)
        for start in range(0, len(view), _LARGEST_FRAME_BYTES):
            piece = bytes([_DATA]) + view[start : start + _LARGEST_FRAME_BYTES]
            try:
                self._websocket.send_binary(piece)
            except (WebSocketException, OSError):
                raise ConnectionError("the connection to its pod was cut off") from None

    def receive(self, size: int) -> bytes:
        """What comes next, up to so many bytes; nothing where the other side has ended."""
        while not self._received:
            try:
                kind, frame = self._websocket.recv_data()
            except (WebSocketException, OSError):
                raise ConnectionError("the connection to its pod was cut off") from None
            if kind == ABNF.OPCODE_CLOSE:
                return b""
            self._take(frame)
        piece, self._received = self._received[:size], self._received[size:]
        return piece

    def _take(self, frame: bytes) -> None:
        channel, content = frame[0], frame[1:]
        if channel not in self._known:
            self._known.add(channel)
        elif channel == _ERRORS:
            raise ConnectionError(content.decode(errors="replace").strip()[:300])
        else:
            self._received = content

    def makefile(self, mode: str = "rb", buffering: int = -1) -> Any:
        """What is received, as a file; with ``buffering`` 0 nothing is read ahead. Closing it leaves the tunnel open."""
        raw = _Received(self)
        return raw if buffering == 0 else io.BufferedReader(raw, _LARGEST_FRAME_BYTES)

    def fileno(self) -> int:
        """For ``select``, which sees nothing of what ``has_more`` tells."""
        return int(self._websocket.sock.fileno())

    @property
    def has_more(self) -> bool:
        """Whether something was received already that ``receive`` has not given."""
        return bool(self._received) or bool(getattr(self._websocket.sock, "pending", int)())

    @property
    def is_stale(self) -> bool:
        """Of one on which nothing is awaited: whether it has ended, or says what nobody asked."""
        return (
            not self._websocket.connected
            or self.has_more
            or bool(select.select([self._websocket.sock], [], [], 0)[0])
        )

    def close(self) -> None:
        """End it."""
        self.abort()
        with contextlib.suppress(OSError):
            self._websocket.shutdown()

    def abort(self) -> None:
        """Let whoever waits for it, in whichever thread, wait no longer."""
        with contextlib.suppress(OSError, AttributeError):
            self._websocket.sock.shutdown(socket.SHUT_RDWR)


class _Received(io.RawIOBase):
    def __init__(self, tunnel: PodTunnel) -> None:
        self._tunnel = tunnel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._tunnel.receive(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
