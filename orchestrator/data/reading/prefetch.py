"""Items made ready by a thread, a bounded number ahead of whoever takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def ahead_of(source: Generator[T, None, None], count: int) -> Prefetched[T] | Generator[T, None, None]:
    """The same items, up to ``count`` of them made ready ahead by a thread; 0: none is."""
    return Prefetched(source, count) if count else source


class Prefetched(Generic[T]):
    """Iterates over what a thread has taken from an iterator, a bounded number ahead; its errors come out here."""

    def __init__(self, source: Generator[T, None, None], ahead: int) -> None:
        self._source = source
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="data-prefetch", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._source:
                if not self._put(("item", item)):
                    return
            self._put(("end", None))
        except BaseException as error:  # whatever it is, the loop's thread has to raise it
            self._put(("error", error))
        finally:
            self._source.close()

    def _put(self, message: tuple[str, Any]) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(message, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Prefetched[T]:
        return self

    def __next__(self) -> T:
        kind, value = self._ready.get()
        if kind == "item":
            item: T = value
            return item
        # Stays there for whoever asks again.
        self._ready.put((kind, value))
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)
