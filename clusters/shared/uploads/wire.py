"""An upload to a folder that only a cluster's machines reach: ``python -m orchestrator.clusters.shared.uploads.wire`` takes it
there, from its standard input.

::

    {"place": "/data/x", "replace": false, "sizes": {"a.csv": 3, ...}}      a line; answered with what is held
    {"path": "a.csv", "offset": 0}                                          a line for each file,
    the bytes behind the offset                                             as many as the size says,
    64 characters                                                           and their SHA-256 in hex; no answer
    {"commit": true}                                                        a line; answered

An answer is a marked line of JSON. One that says an error may come at any time, and is the last.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

from orchestrator.clusters.shared.stores import ANSWER_MARK
from orchestrator.clusters.shared.uploads.folder import FolderTarget
from orchestrator.clusters.shared.uploads.target import Held
from orchestrator.errors import InfrastructureError, SpecError, TrainwrightError

COMMAND = ("python", "-m", "orchestrator.clusters.shared.uploads.wire")
_PIECE_BYTES = 64 * 1024
_CHUNK_BYTES = 1 << 20
_HASH_LENGTH = 64
_ERRORS = {error.__name__: error for error in (SpecError, InfrastructureError)}


class Channel(Protocol):
    """The input and output of the receiver, wherever it runs. Every method may raise InfrastructureError."""

    def write(self, content: bytes) -> None:
        """Send."""
        ...

    def output(self, *, wait: bool) -> bytes:
        """What was printed since the last time; with ``wait`` until there is some, or the end."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        ...

    def last_words(self) -> str:
        """How it ended, for a person."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class RemoteTarget:
    """The sending end: an UploadTarget."""

    def __init__(self, place: str, channel: Channel, *, replace: bool) -> None:
        """
        Args:
            place: the final path, as the receiver's machine has it.
            channel: to the receiver.
            replace: whether what has that name gives way at the end.

        """
        self._place, self._channel, self._replace = place, channel, replace
        self._sizes: Mapping[str, int] = {}
        self._unsent = bytearray()
        self._said = b""

    def begin(self, sizes: Mapping[str, int]) -> Mapping[str, Held]:
        """See UploadTarget."""
        self._sizes = sizes
        self._line({"place": self._place, "replace": self._replace, "sizes": dict(sizes)})
        return {path: Held(*held) for path, held in self._answer()["held"].items()}

    def put(self, path: str, offset: int, chunks: Iterable[bytes], sha256: Callable[[], str]) -> None:
        """See UploadTarget."""
        self._line({"path": path, "offset": offset})
        for chunk in chunks:
            self._send(chunk)
        self._send(sha256().encode())

    def commit(self) -> None:
        """See UploadTarget."""
        self._line({"commit": True})
        self._answer()

    def close(self) -> None:
        """See UploadTarget."""
        self._channel.close()

    def _line(self, value: Mapping[str, Any]) -> None:
        self._send(json.dumps(value).encode() + b"\n")

    def _send(self, content: bytes) -> None:
        self._unsent += content
        while len(self._unsent) >= _PIECE_BYTES:
            self._flush(_PIECE_BYTES)

    def _flush(self, length: int) -> None:
        piece = bytes(self._unsent[:length])
        del self._unsent[:length]
        with self._connected():
            self._channel.write(piece)
            self._said += self._channel.output(wait=False)
        if self._said and (told := self._said_error()):
            raise told

    def _answer(self) -> dict[str, Any]:
        while self._unsent:
            self._flush(_PIECE_BYTES)
        while (found := self._next_answer()) is None:
            with self._connected():
                more = self._channel.output(wait=True)
                self._said += more
                if not more and self._channel.has_ended:
                    raise InfrastructureError(
                        f"{self._place}: what takes the upload in the cluster {self._channel.last_words()}"
                    )
        if error := _error_of(found):
            raise error
        return found

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """What the receiver has said last goes before the loss of the connection that followed."""
        try:
            yield
        except InfrastructureError as error:
            raise self._said_error() or InfrastructureError(
                f"{error}; what has arrived is kept, and the same command goes on with it"
            ) from None

    def _said_error(self) -> TrainwrightError | None:
        found = self._next_answer()
        return _error_of(found) if found else None

    def _next_answer(self) -> dict[str, Any] | None:
        """The first marked line that is whole; others are nothing of ours."""
        while b"\n" in self._said:
            line, _, self._said = self._said.partition(b"\n")
            if line.startswith(ANSWER_MARK.encode()):
                found: dict[str, Any] = json.loads(line[len(ANSWER_MARK) :])
                return found
        return None


def serve(source: BinaryIO, answer: Callable[[dict[str, Any]], None]) -> None:
    """The receiving end: until it is committed, or the sender has hung up."""
    hello = json.loads(source.readline())
    sizes: dict[str, int] = hello["sizes"]
    target = FolderTarget(hello["place"], replace=hello["replace"])
    try:
        answer({"held": {path: list(held) for path, held in target.begin(sizes).items()}})
        while line := source.readline():
            told = json.loads(line)
            if "commit" in told:
                target.commit()
                answer({"done": True})
                return
            rest = sizes[told["path"]] - told["offset"]
            target.put(
                told["path"],
                told["offset"],
                _exactly(source, rest),
                lambda: source.read(_HASH_LENGTH).decode(),
            )
    except EOFError:
        return
    except (SpecError, InfrastructureError) as error:
        answer({"error": type(error).__name__, "message": str(error)})
    finally:
        target.close()


def _exactly(source: BinaryIO, length: int) -> Iterator[bytes]:
    while length:
        chunk = source.read(min(length, _CHUNK_BYTES))
        if not chunk:
            raise EOFError
        length -= len(chunk)
        yield chunk


def _error_of(found: Mapping[str, Any]) -> TrainwrightError | None:
    if "error" not in found:
        return None
    return _ERRORS.get(found["error"], InfrastructureError)(found["message"])


def main() -> None:
    """Take one upload from standard input."""

    def answer(value: dict[str, Any]) -> None:
        print(ANSWER_MARK + json.dumps(value), flush=True)

    serve(sys.stdin.buffer, answer)


if __name__ == "__main__":
    main()
