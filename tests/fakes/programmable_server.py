"""A real HTTP server whose answers a test decides: what it is asked is kept, and faults are put before its routes."""

import contextlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets_of_tests import Websocket


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    queries: dict[str, list[str]] = field(default_factory=dict)
    """The query where a name may be given again."""

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    """Bytes as they are, anything else as JSON; an iterator is sent piece by piece as it comes (chunked). With status 101 a
    function that is given the connection when it has become a websocket, and speaks until it returns."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What happens to matching requests, ``times`` times."""

    method: str
    path: str
    answer: Answer | None = None
    query: dict[str, str | None] = field(default_factory=dict)
    """What the query must hold; None: that it must not have the name."""
    kind: str = "answer"
    """``answer``; ``drop``: close without a word; ``lose``: do it, then close without a word; ``stall``: send the
    headers of a long body and nothing of it, until the server closes."""
    times: int = 1


class ProgrammableServer:
    """Subclasses implement ``route``."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # else a small body waits for the acknowledgment of its headers: 40 ms
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                pass

            def do_any(self) -> None:
                owner._serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

        class Server(ThreadingHTTPServer):
            def handle_error(self, *where: Any) -> None:
                """A client may leave at any time, even between two requests; anything else is told."""
                if not isinstance(sys.exc_info()[1], ConnectionError):
                    super().handle_error(*where)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def route(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def fail(
        self,
        method: str,
        path: str,
        answer: Answer | None = None,
        *,
        query: dict[str, str | None] | None = None,
        kind: str = "answer",
        times: int = 1,
    ) -> None:
        """The next ``times`` requests of a method whose path matches (a regular expression) go wrong."""
        with self.lock:
            self.faults.append(Fault(method, path, answer, query or {}, kind, times))

    def count(self, method: str, path: str) -> int:
        with self.lock:
            return sum(
                asked.method == method and re.search(path, asked.path) is not None for asked in self.asked
            )

    def _fault_for(self, asked: Asked) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if (
                    fault.times > 0
                    and fault.method == asked.method
                    and re.search(fault.path, asked.path)
                    and all(asked.query.get(name) == value for name, value in fault.query.items())
                ):
                    fault.times -= 1
                    return fault
        return None

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        asked = Asked(
            handler.command,
            parts.path,
            {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
            {name.lower(): value for name, value in handler.headers.items()},
            _body_of(handler),
            parse_qs(parts.query, keep_blank_values=True),
        )
        with self.lock:
            self.asked.append(asked)
        fault = self._fault_for(asked)
        if fault is not None and fault.kind == "drop":
            handler.close_connection = True
            return
        if fault is not None and fault.kind == "stall":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.flush()
            self.closing.wait()
            return
        answer = fault.answer if fault is not None and fault.kind == "answer" else self.route(asked)
        if fault is not None and fault.kind == "lose":
            handler.close_connection = True
            return
        assert answer is not None
        self._send(handler, answer)

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.status == 101:
            handler.close_connection = True
            connection = Websocket(handler)
            with contextlib.suppress(ConnectionError):
                answer.body(connection)
            return
        is_stream = hasattr(answer.body, "__next__")
        body = (
            b""
            if is_stream
            else answer.body
            if isinstance(answer.body, bytes)
            else json.dumps(answer.body).encode()
        )
        handler.send_response(answer.status)
        headers = {"Content-Type": "application/json", **answer.headers}
        headers |= {"Transfer-Encoding": "chunked"} if is_stream else {"Content-Length": str(len(body))}
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        try:
            if not is_stream:
                handler.wfile.write(body)
                return
            for piece in answer.body:
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                handler.wfile.flush()
            handler.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True


def _body_of(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def wait_until(condition, what: str, seconds: float = 20.0) -> None:
    """For what another thread or process brings about; says what did not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds:g}s"
        time.sleep(0.01)
