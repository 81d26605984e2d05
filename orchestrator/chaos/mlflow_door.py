"""A real MLflow server behind a door that can be slow, late, broken or shut."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from orchestrator.errors import InfrastructureError

_NOT_FORWARDED = {"connection", "host", "transfer-encoding", "content-length"}
_START_SECONDS = 120


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of MLflow's own server on an SQLite store in a folder.

    Raises:
        InfrastructureError: it does not start.

    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            if time.monotonic() > deadline or process.poll() is not None:
                said = (folder / "server.log").read_text(errors="replace").strip().splitlines()
                raise InfrastructureError(
                    f"MLflow's server did not start: {said[-1] if said else 'it said nothing'}"
                )
            time.sleep(0.1)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


class Door:
    """What stands before a server: its faults may be changed at any time."""

    def __init__(self, server: str) -> None:
        """``server``: the address behind it."""
        self._server = server.removeprefix("http://")
        self.slow_seconds = 0.0
        """How long each request waits before it is let through."""
        self.code = 0
        """Answered in the server's place; 0: the server answers."""
        self.held = threading.Event()
        """Set while an answer is held back."""
        self._held_path, self._released = "", threading.Event()
        self.requests = 0
        self._port = 0
        self._listener: ThreadingHTTPServer | None = None
        self.open()

    @property
    def address(self) -> str:
        """What clients are given."""
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Let clients connect, at the same address as before."""

        class Handler(BaseHTTPRequestHandler):
            def handle_one(handler) -> None:
                self._handle(handler)

            # the names that http.server looks for
            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_one

            def log_message(self, *arguments: object) -> None:
                pass

        self._listener = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._listener.server_address[1]
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def shut(self) -> None:
        """Refuse connections."""
        assert self._listener is not None
        self._listener.shutdown()
        self._listener.server_close()

    def answer(self, code: int) -> None:
        """Answer all with an error in the server's place; 0: the server answers."""
        self.code = code

    def hold(self, path: str) -> None:
        """Let the server do what requests to a path ask for, and keep its answers back until ``release``."""
        self._released.clear()
        self.held.clear()
        self._held_path = path

    def release(self) -> None:
        """Let all through."""
        self._held_path = ""
        self._released.set()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests += 1
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length) if length else None
        time.sleep(self.slow_seconds)
        if self.code:
            answer_code, content = self.code, b"not now"
            headers: list[tuple[str, str]] = []
        else:
            answer_code, headers, content = self._forward(handler, body)
        if self._held_path and self._held_path in handler.path:
            self.held.set()
            self._released.wait()
        with contextlib.suppress(ConnectionError):  # the client did not wait
            handler.send_response(answer_code)
            for name, value in headers:
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)

    def _forward(
        self, handler: BaseHTTPRequestHandler, body: bytes | None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._server)
        headers = {
            name: value for name, value in handler.headers.items() if name.lower() not in _NOT_FORWARDED
        }
        with contextlib.closing(connection):
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _NOT_FORWARDED]
        return answer.status, kept, content
