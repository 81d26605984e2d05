"""A way for a browser on this machine, and for it alone, to a dashboard inside a cluster: an HTTP server on 127.0.0.1 that passes
requests on, signed in.

Whoever opens its link, which works once, is given a cookie, and nothing without it passes. Other pages that the browser shows,
and names that lead to 127.0.0.1 (DNS rebinding), are refused by ``Host``, ``Origin`` and ``Sec-Fetch-Site``. Cookies of other
servers on this machine, which a browser sends to every port, do not reach the cluster.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from orchestrator.errors import InfrastructureError, TrainwrightError

_IDLE_SECONDS = 60.0
"""So long a browser may keep a connection, and with it a tunnel, that it does not use."""
_END_SECONDS = 5.0
_PIECE_BYTES = 2**16
_OF_ONE_CONNECTION = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
"""Headers that are not passed on (RFC 9110, 7.6.1)."""


@dataclass(frozen=True)
class Dashboard:
    """Where requests go."""

    name: str
    """What a person calls it."""
    host: str
    """``Host`` that it is asked by."""
    connect: Callable[[], Any]
    """A new connection to it, as ``PodTunnel`` is one. Raises TrainwrightError where there can be none."""
    authorization: str = ""
    """Header that signs in. Empty: the browser signs in itself."""
    start: str = "/"
    """What its link shows."""


class Gateway:
    """Serves a dashboard from its making to ``close``.

    Args:
        dashboard: what it shows.
        port: on 127.0.0.1; 0: any free one.

    Raises:
        InfrastructureError: the port is taken.
    """

    def __init__(self, dashboard: Dashboard, port: int = 0) -> None:
        self._visits: set[_Visit] = set()
        gateway = {"dashboard": dashboard, "key": _Key(), "visits": self._visits}
        try:
            self._server = _Server(("127.0.0.1", port), type("Visit", (_Visit,), gateway))
        except OSError as error:
            raise InfrastructureError(
                f"127.0.0.1:{port} can't be served on: {error.strerror}; give another --port"
            ) from None
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.link = f"{self.url}/?token={gateway['key'].token}"  # type: ignore[attr-defined]
        """For one browser."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gateway")
        self._thread.start()

    def close(self) -> None:
        """End it, and every connection through it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        visits = list(self._visits)
        for visit in visits:
            visit.hang_up()
        for visit in visits:
            visit.thread.join(_END_SECONDS)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Key:
    """Of one gateway: a token that can be used once, for a cookie."""

    def __init__(self) -> None:
        self.token, self._cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._lock, self._is_used = threading.Lock(), False

    def cookie_for(self, token: str) -> str | None:
        """The cookie's value, the first time that the token is given."""
        with self._lock:
            if self._is_used or not hmac.compare_digest(token.encode(), self.token.encode()):
                return None
            self._is_used = True
            return self._cookie

    def fits(self, cookie: str | None) -> bool:
        return cookie is not None and hmac.compare_digest(cookie.encode(), self._cookie.encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = (
        True  # one may wait for an API server that does not answer; ``close`` waits for all others
    )
    allow_reuse_address = True

    def handle_error(self, *where: Any) -> None:
        """A browser may leave at any time."""


class _Visit(BaseHTTPRequestHandler):
    """One connection of a browser, with one to the dashboard for as long as both are kept."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    dashboard: ClassVar[Dashboard]
    key: ClassVar[_Key]
    visits: ClassVar[set[_Visit]]

    def setup(self) -> None:
        super().setup()
        self.thread = threading.current_thread()
        self.thread.name = "visit of a gateway"
        self._tunnel: Any = None
        self.visits.add(self)

    def finish(self) -> None:
        try:
            self._close_tunnel()
            super().finish()
        finally:
            self.visits.discard(self)

    def hang_up(self) -> None:
        """From another thread: let it end."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        if (tunnel := self._tunnel) is not None:
            tunnel.abort()

    def handle_one_request(self) -> None:
        self.connection.settimeout(_IDLE_SECONDS)
        super().handle_one_request()

    def log_message(self, *arguments: Any) -> None:
        """Nobody reads along."""

    # -- who may pass ------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        """Any method."""
        self.connection.settimeout(None)
        try:
            self._answer()
        except (
            OSError,
            HTTPException,
            ValueError,
        ):  # in the middle of an answer: the browser sees that it is cut off
            self.close_connection = True
            self._close_tunnel()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def _answer(self) -> None:
        here = f"127.0.0.1:{self._port}"
        if self.headers.get_all("Host") != [here]:
            return self._say(403, f"This address answers as http://{here} only.")
        has_key = self.key.fits(self._cookies().get(self._cookie_name))
        if (token := self._token()) is not None:
            cookie = self.key.cookie_for(token)
            if cookie is None and not has_key:
                return self._say(
                    403,
                    "This link was used already, or is not right. Start trainwright ui again for another one.",
                )
            return self._let_in(cookie)
        if self.headers.get("Origin", f"http://{here}") != f"http://{here}":
            return self._say(403, "Another page asks for this one; that is refused.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return self._say(
                403, "Another page asks for this one; that is refused. Open the address in a tab of its own."
            )
        if not has_key:
            return self._say(
                403, "Open the link that trainwright ui printed; this browser has not opened it yet."
            )
        return self._pass_on()

    @property
    def _port(self) -> int:
        return int(self.connection.getsockname()[1])

    @property
    def _cookie_name(self) -> str:
        return f"trainwright-{self._port}"  # a browser sends cookies to every port of a host

    def _cookies(self) -> dict[str, str]:
        parts = [
            one.strip().partition("=") for one in "; ".join(self.headers.get_all("Cookie", [])).split(";")
        ]
        return {name: value for name, _, value in parts if name}

    def _token(self) -> str | None:
        parts = urlsplit(self.path)
        return (
            parse_qs(parts.query).get("token", [None])[0]
            if self.command == "GET" and parts.path == "/"
            else None
        )

    def _let_in(self, cookie: str | None) -> None:
        self.send_response(303)
        if cookie is not None:
            self.send_header("Set-Cookie", f"{self._cookie_name}={cookie}; HttpOnly; SameSite=Strict; Path=/")
        for name, value in (("Location", self.dashboard.start), ("Referrer-Policy", "no-referrer")):
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _say(self, status: int, sentence: str) -> None:
        """An answer of ours, after which the connection ends: the rest of the request is not read."""
        content = f"{sentence}\n".encode()
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # -- there -------------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        if not self.path.startswith("/") or not _is_framed_once(self.headers):
            return self._say(400, "This is no request that can be passed on.")
        try:
            response = self._asked()
        except (TrainwrightError, ConnectionError, HTTPException) as error:
            self._close_tunnel()
            return self._say(
                502,
                f"{self.dashboard.name} can't be reached: {error}. Reload this page when it is there again.",
            )
        if response.status == 401 and self.dashboard.authorization:
            self._close_tunnel()
            return self._say(
                502, f"{self.dashboard.name} does not take the user that the cluster's profile signs in with."
            )
        self._give(response)
        if response.status == 101:
            self._carry()
        if response.will_close or response.status == 101:
            self._close_tunnel()
        return None

    def _asked(self) -> HTTPResponse:
        """The answer; of another connection where the kept one ended just before it was asked."""
        is_kept = self._tunnel is not None and not self._is_upgrade and not self._tunnel.is_stale
        if is_kept:
            try:
                return self._ask()
            except (ConnectionError, HTTPException):
                if self.command not in ("GET", "HEAD") or self._has_body:
                    raise
        self._close_tunnel()
        self._tunnel = self.dashboard.connect()
        return self._ask()

    def _ask(self) -> HTTPResponse:
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{n}: {v}" for n, v in self._headers_there())]
        head = "".join(f"{' '.join(line.splitlines())}\r\n" for line in lines)
        self._tunnel.sendall(f"{head}\r\n".encode("latin-1"))
        for piece in self._body():
            try:
                self._tunnel.sendall(piece)
            except ConnectionError:  # it may have answered before it has read everything
                self.close_connection = True
                break
        # whatever follows the head of a switch is no answer any more, so nothing of it may be read ahead
        ahead = 0 if self._is_upgrade else -1
        reader = SimpleNamespace(makefile=lambda mode: self._tunnel.makefile(mode, ahead))
        response = HTTPResponse(reader, method=self.command)  # type: ignore[arg-type]
        response.begin()
        return response

    def _close_tunnel(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()
        self._tunnel = None

    @property
    def _is_upgrade(self) -> bool:
        return "upgrade" in self.headers.get("Connection", "").lower() and "Upgrade" in self.headers

    @property
    def _has_body(self) -> bool:
        return "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0"

    def _headers_there(self) -> Iterator[tuple[str, str]]:
        left_out = _of_this_connection(self.headers) | {"host", "cookie", "expect"}
        yield "Host", self.dashboard.host
        if self.dashboard.authorization:
            left_out.add("authorization")
            yield "Authorization", self.dashboard.authorization
        yield from ((name, value) for name, value in self.headers.items() if name.lower() not in left_out)
        mark = f"{self._cookie_name}-"
        cookies = [(n.removeprefix(mark), v) for n, v in self._cookies().items() if n.startswith(mark)]
        if cookies:
            yield "Cookie", "; ".join(f"{name}={value}" for name, value in cookies)
        if "Transfer-Encoding" in self.headers:
            yield "Transfer-Encoding", "chunked"
        if self._is_upgrade:
            yield "Connection", "Upgrade"
            yield "Upgrade", self.headers["Upgrade"]

    def _body(self) -> Iterator[bytes]:
        """The request's, in pieces as they are sent on."""
        if "Transfer-Encoding" not in self.headers:
            yield from self._exactly(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(1000).partition(b";")[0], 16):
            for piece in self._exactly(size):
                yield b"%x\r\n%s\r\n" % (len(piece), piece)
            self.rfile.readline(3)
        while self.rfile.readline(_PIECE_BYTES).strip():  # trailers
            pass
        yield b"0\r\n\r\n"

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self.rfile.read1(min(size, _PIECE_BYTES))
            if not piece:
                raise ConnectionError("the browser has left")
            size -= len(piece)
            yield piece

    # -- and back ----------------------------------------------------------------------------------------------

    def _give(self, response: HTTPResponse) -> None:
        has_body = self.command != "HEAD" and response.status >= 200 and response.status not in (204, 304)
        is_chunked = has_body and response.length is None and self.request_version == "HTTP/1.1"
        self.send_response_only(response.status, response.reason)
        for name, value in self._headers_here(response):
            self.send_header(name, value)
        if response.status == 101:
            self.close_connection = True
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", response.headers.get("Upgrade", ""))
        elif is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif has_body and response.length is None:
            self.close_connection = True
        if self.close_connection and response.status != 101:
            self.send_header("Connection", "close")
        self.end_headers()
        missing = response.length or 0
        while has_body and (piece := response.read1(_PIECE_BYTES)):
            missing -= len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
        if has_body and missing > 0:
            raise ConnectionError("an answer was cut off")
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _headers_here(self, response: HTTPResponse) -> Iterator[tuple[str, str]]:
        left_out = _of_this_connection(response.headers)
        for name, value in response.getheaders():
            match name.lower():
                case "set-cookie":
                    yield name, f"{self._cookie_name}-{value}"
                case "location":
                    yield name, value.removeprefix(f"http://{self.dashboard.host}") or "/"
                case other if other not in left_out:
                    yield name, value

    def _carry(self) -> None:
        """Bytes both ways, after a switch of protocols, until one side ends. By one thread: two of them can't share a TLS
        connection. A browser that sends without reading while the dashboard does the same would block it.
        """
        while True:
            ready = (
                [self._tunnel]
                if self._tunnel.has_more
                else select.select([self.connection, self._tunnel], [], [])[0]
            )
            for side in ready:
                piece = (
                    self.connection.recv(_PIECE_BYTES)
                    if side is self.connection
                    else side.receive(_PIECE_BYTES)
                )
                if not piece:
                    return
                (self._tunnel if side is self.connection else self.connection).sendall(piece)


def _of_this_connection(headers: HTTPMessage | Any) -> set[str]:
    """Names of headers that say something of one connection alone."""
    return _OF_ONE_CONNECTION | {name.strip().lower() for name in headers.get("Connection", "").split(",")}


def _is_framed_once(headers: Any) -> bool:
    """Whether it is clear where a request's body ends: servers that read that differently take one's body for a second request."""
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    if len(lengths) + len(codings) > 1:
        return False
    return all(one.isdecimal() and one.isascii() for one in lengths) and all(
        one.lower() == "chunked" for one in codings
    )
