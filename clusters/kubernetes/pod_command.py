"""A command that runs in a pod, over the API server's exec stream."""

from __future__ import annotations

import contextlib
import json
import re
import select
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from websocket import ABNF, WebSocketException

from orchestrator.clusters.kubernetes.errors import refusal
from orchestrator.clusters.shared.connection import connection_problem
from orchestrator.errors import InfrastructureError, TrainwrightError
from orchestrator.spec.profile import ClusterProfile

_STDOUT, _STDERR, _STATUS = 1, 2, 3
"""Channels of the stream; the last says how the command ended."""
_SILENT_SECONDS = 300.0
"""After so long without a word the connection counts as lost."""
_GOODBYE_SECONDS = 1
_HANDSHAKE = re.compile(r"Handshake status (\d{3})(?:.*-\+-\+- b?['\"]?(\{.*\}))?", re.DOTALL)


class PodCommand:
    """One command. Every method raises InfrastructureError where the connection is lost, or the command is silent for minutes.

    Args:
        profile: whose cluster it is.
        client: an ``ApiClient`` that nobody else uses.
        pod: where it runs, in its only container.
        command: words, the first of which is found on the container's path.
        on_close: called by ``close``.

    Raises:
        InfrastructureError: it can't be started: no such right, no pod.
    """

    def __init__(
        self,
        profile: ClusterProfile,
        client: Any,
        pod: str,
        command: Sequence[str],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        from kubernetes import client as api
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import stream

        self._profile, self._pod, self._on_close = profile, pod, on_close
        try:
            self._stream = stream(
                api.CoreV1Api(client).connect_get_namespaced_pod_exec,
                pod,
                profile.kubernetes.namespace,
                command=list(command),
                stdin=True,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
            )
        except ApiException as error:
            raise self._refused(str(error.reason or "")) from None
        self._stream.sock.settimeout(_SILENT_SECONDS)
        self._received: defaultdict[int, bytes] = defaultdict(bytes)
        self._is_open = True

    def write(self, content: bytes) -> None:
        """Send it to the command's input."""
        with self._connected():
            self._stream.write_stdin(content)

    def output(self, *, wait: bool) -> bytes:
        """What it has printed since the last time; with ``wait`` until it prints something or ends."""
        deadline = time.monotonic() + _SILENT_SECONDS
        with self._connected():
            self._receive(0.0)
            while wait and self._is_open and not self._received[_STDOUT]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"silent for {_SILENT_SECONDS:g}s")
                self._receive(1.0)
        return self._received.pop(_STDOUT, b"")

    def _receive(self, seconds: float) -> None:
        """Take all that is there, or the first that comes within some seconds.

        The client's own way of reading waits for the network, also for frames that came in one TLS record with an earlier
        one and lie in this process already (kubernetes-client/python#2414).
        """
        websocket = self._stream.sock
        while self._is_open:
            if websocket.sock is None:
                self._is_open = False
                return
            has_more = getattr(websocket.sock, "pending", int)()
            if not has_more and not select.select([websocket.sock], [], [], seconds)[0]:
                return
            kind, frame = websocket.recv_data()
            if kind == ABNF.OPCODE_CLOSE:
                self._is_open = False
            elif frame:
                self._received[frame[0]] += frame[1:]
            seconds = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return not self._is_open

    def result(self) -> str:
        """All that it prints until it ends. Raises InfrastructureError, with its last words, where it fails."""
        said = b""
        try:
            while not self.has_ended:
                said += self.output(wait=True)
            said += self.output(wait=False)
        finally:
            self.close()
        if (code := self._exit_code()) != 0:
            raise InfrastructureError(
                f"cluster {self._profile.name}: a command in pod {self._pod} {self.last_words(code)}"
            )
        return said.decode(errors="replace")

    def last_words(self, code: int | None = None) -> str:
        """How it ended, for a person."""
        with contextlib.suppress(WebSocketException, OSError):
            self._receive(0.0)
        errors = self._received.pop(_STDERR, b"").decode(errors="replace").strip().splitlines()
        if errors:
            return f"failed: {errors[-1][:300]}"
        return "was cut off" if code is None else f"ended with exit code {code}"

    def close(self) -> None:
        """End the connection; the command finds its input at its end."""
        connection = self._stream.sock.sock
        with contextlib.suppress(WebSocketException, OSError):
            self._stream.close(timeout=_GOODBYE_SECONDS)
        if connection is not None:  # the client leaves it open where it can't say goodbye
            connection.close()
        self._on_close()

    def _exit_code(self) -> int | None:
        """As the API server tells it; None where the connection ended before."""
        with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
            status = json.loads(self._received[_STATUS])
            return 0 if status["status"] == "Success" else int(status["details"]["causes"][0]["message"])
        return None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (WebSocketException, OSError) as error:
            raise InfrastructureError(
                f"cluster {self._profile.name}: the connection to pod {self._pod} was lost ({connection_problem(error)})"
            ) from None

    def _refused(self, reason: str) -> TrainwrightError:
        found = _HANDSHAKE.search(reason)
        if found is None:
            return refusal(
                self._profile, "create", "pods/exec", 0, reason.splitlines()[0][:200] if reason else ""
            )
        said = found[2] or ""
        with contextlib.suppress(ValueError, KeyError):
            said = str(json.loads(said.replace("\\n", ""))["message"])
        return refusal(self._profile, "create", "pods/exec", int(found[1]), said)
