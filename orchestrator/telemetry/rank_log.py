"""What a rank prints and logs, kept in ``logs/attempt-A/rank-R.log`` of the run's storage."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from orchestrator.records import rank_log_name
from orchestrator.storage import is_uri, store_at

_FIRST_UPLOAD_SECONDS, _UPLOAD_SECONDS = 1.0, 5.0
_SHARE_OF_TIME = 0.1
"""Uploading takes at most so much of the time: an object can't be added to, so each time all of it goes."""
_LAST_UPLOAD_SECONDS = 30.0


@contextlib.contextmanager
def kept_log(storage: str, attempt: int, rank: int) -> Iterator[KeptFile]:
    """Keep this process's output and logs, and the traceback of what ends it. Gives what is kept alone: text that is
    written there is in the rank's log and not in the run's output.

    In an object store they appear some seconds later, and a killed process's last ones are lost.
    """
    name = rank_log_name(attempt, rank)
    with contextlib.ExitStack() as stack:
        if is_uri(storage):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            path.touch()
            stack.enter_context(contextlib.closing(_Uploads(path, storage, name)))
        else:
            path = Path(storage) / name
            store_at(storage).create(name, b"")  # for its user alone
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        kept = KeptFile(file)
        stack.enter_context(_copied_to(kept))
        try:
            yield kept
        except BaseException:
            traceback.print_exc(file=file)
            raise


class KeptFile:
    """A rank's log. A full disk must not end the run, so what can't be written is let go."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Take text."""
        with contextlib.suppress(ValueError, OSError):
            self._file.write(text)

    def flush(self) -> None:
        """Let readers see it."""
        with contextlib.suppress(ValueError, OSError):
            self._file.flush()


@contextlib.contextmanager
def _copied_to(file: KeptFile) -> Iterator[None]:
    logger = logging.getLogger("orchestrator")
    out, err = sys.stdout, sys.stderr
    handlers, level, propagates = logger.handlers, logger.level, logger.propagate
    sys.stdout, sys.stderr = _Tee(out, file), _Tee(err, file)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the driver prints the first failure, once
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)


class _Tee:
    """Writes to a stream and to the rank's own log file."""

    def __init__(self, stream: TextIO, file: KeptFile) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        """To both."""
        self._file.write(text)
        self._file.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Uploads:
    """A thread that brings a growing file to an object store; a store that fails must not end the run."""

    def __init__(self, path: Path, storage: str, name: str) -> None:
        self._path, self._storage, self._name = path, storage, name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rank-log", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        sent, wait, ended = 0, _FIRST_UPLOAD_SECONDS, False
        while not ended:
            ended = self._ended.wait(wait)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                if (size := self._path.stat().st_size) > sent:
                    store_at(self._storage).write(self._name, self._path.read_bytes())
                    sent = size
            wait = max(_UPLOAD_SECONDS, (time.monotonic() - began) / _SHARE_OF_TIME)

    def close(self) -> None:
        """Bring the rest, for at most ``_LAST_UPLOAD_SECONDS``."""
        self._ended.set()
        self._thread.join(_LAST_UPLOAD_SECONDS)
