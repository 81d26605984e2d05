"""A server that answers as Google Cloud Storage does, in a process of its own.

Arrow holds the interpreter's lock in some calls that wait for the server, so a thread could not answer them. The
package's own server takes one connection at a time, and Arrow's client opens several.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.request import urlopen

from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class _Handler(RequestHandler):
    failing, status, where = 0, 503, ""

    def do_GET(self) -> None:
        kind = type(self)
        if self.path.startswith("/fail/"):
            failing, status, kind.where = self.path.split("/")[2:]
            kind.failing, kind.status = int(failing), int(status)
            self._answer(200)
        elif self.path == "/failing":
            self._answer(200, str(kind.failing).encode())
        elif kind.failing and "/o/" in self.path and kind.where in self.path:
            kind.failing -= 1
            self._answer(kind.status)
        else:
            super().do_GET()

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


class GcsServer:
    """Where it is, and what it shall do wrong."""

    def __init__(self, address: str) -> None:
        self.address = address

    def fail(self, reads: int, status: int, *, contents_only: bool = False) -> None:
        """Answer the next reads of objects with a status; else also those that ask for size and time."""
        urlopen(f"{self.address}/fail/{reads}/{status}/{'alt=media' if contents_only else ''}").close()

    @property
    def still_failing(self) -> int:
        """Reads that are yet to fail."""
        with urlopen(f"{self.address}/failing") as answer:
            return int(answer.read())


@contextmanager
def gcs_server(bucket: str) -> Iterator[GcsServer]:
    """A server with one bucket."""
    with subprocess.Popen([sys.executable, __file__, bucket], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield GcsServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


def _serve(bucket: str, tell: Callable[[int], None]) -> None:
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(bucket, storage)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, storage))
    tell(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1], lambda port: print(port, flush=True))
