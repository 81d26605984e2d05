"""What the API server asks of a kubelet when a person wants a pod's log, runs a command in it or reaches a port of it.

The server itself speaks plain HTTP to this machine alone; what ends TLS before it is a loop of its own, since one TLS
connection can't be read and written by two threads at once, as a command's is.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.server
import ssl
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exec_stream import carry_over
from forward_stream import forward_over
from websockets_of_tests import Websocket

if TYPE_CHECKING:
    from node_agent import NodeAgent, Pod

FEATURES = ["ExtendWebSocketsToKubelet"]
"""What a node says of itself, so that from Kubernetes 1.36 on ``kubectl exec`` comes as a websocket too, not as SPDY."""


class KubeletApi:
    """One node's, on the node's address.

    Attributes:
        port: That the API server connects to.
    """

    def __init__(self, agent: NodeAgent) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(agent))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        address = agent.network.address
        names = agent.plane.authority.issue(f"system:node:{agent.name}", ["system:nodes"], hosts=[address])
        self._tls = _TlsEnd(address, self._server.server_port, names)
        self.port = self._tls.port

    def close(self) -> None:
        self._tls.close()
        self._server.shutdown()
        self._server.server_close()


class _TlsEnd:
    """Ends TLS on one address and carries what comes to a port of this machine, and back."""

    def __init__(self, address: str, to_port: int, names: tuple[Path, Path]) -> None:
        self._address, self._to_port = address, to_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*names)
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    async def _listen(self) -> int:
        self._listening = await asyncio.start_server(self._connected, self._address, 0, ssl=self._context)
        return int(self._listening.sockets[0].getsockname()[1])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        both = {writer, inner_writer}
        self._open |= both
        await asyncio.gather(_carry(reader, inner_writer), _carry(inner_reader, writer))
        self._open -= both

    async def _end(self) -> None:
        self._listening.close()
        for writer in list(self._open):
            writer.transport.abort()  # without TLS's own goodbye, for which the other side may take its time
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # either end may go at any time
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


def _handler(agent: NodeAgent) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            address = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(address.query, keep_blank_values=True)
            match address.path.split("/")[1:]:
                case ["containerLogs", namespace, name, container]:
                    answer = self._log
                case ["exec", namespace, name, container]:
                    answer = self._exec
                case ["portForward", namespace, name]:
                    container, answer = "", self._port_forward
                case _:
                    self.send_error(404)
                    return
            if (pod := agent.pod(namespace, name)) is None:
                self.send_error(404, "the pod is not here")
                return
            with contextlib.suppress(OSError):
                answer(pod, container, query)

        def _exec(self, pod: Pod, name: str, query: dict[str, list[str]]) -> None:
            process = pod.container(name).process
            if process is None:
                self._answer(400, f"container {name} of pod {pod.name} does not run".encode())
                return
            self.close_connection = True
            connection = Websocket(self)
            carry_over(connection, process.run_beside(query["command"]))

        def _port_forward(self, pod: Pod, name: str, query: dict[str, list[str]]) -> None:
            port = int(query["port"][0])
            self.close_connection = True
            forward_over(Websocket(self), port, (pod.ip, port), [])

        def _log(self, pod: Pod, name: str, query: dict[str, list[str]]) -> None:
            asked = {key: values[0] for key, values in query.items()}
            place = -2 if asked.get("previous") == "true" else -1
            logs = pod.container(name).logs
            if len(logs) < -place:
                said = f'container "{name}" in pod "{pod.name}" is waiting to start: ContainerCreating'
                self._answer(400, said.encode())
                return
            log = logs[place]
            lines = log.lines()
            first = 0
            if "tailLines" in asked:
                first = max(0, len(lines) - int(asked["tailLines"]))
            if "sinceSeconds" in asked:
                since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(
                    seconds=int(asked["sinceSeconds"])
                )
                first = max(first, sum(time < since for time, _ in lines))
            with_times = asked.get("timestamps") == "true"
            if asked.get("follow") != "true":
                self._answer(200, b"".join(_line(*line, with_times) for line in lines[first:]))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            shown = first
            while True:
                is_closed = log.is_closed
                for line in log.lines()[shown:]:
                    content = _line(*line, with_times)
                    self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
                    shown += 1
                self.wfile.flush()
                if is_closed or agent.is_closed:
                    break
                log.wait_for_more(shown, 1.0)
            self.wfile.write(b"0\r\n\r\n")

        def _answer(self, code: int, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


def _line(time: datetime.datetime, line: bytes, with_time: bool) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode() + line if with_time else line
