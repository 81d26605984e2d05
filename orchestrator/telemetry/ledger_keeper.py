"""The ledger of a launch, kept while it runs: its driver hears each event that it prints, its own and its workers', and is the
only one that writes it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TextIO

from orchestrator import events
from orchestrator.errors import RecordError, SupersededError
from orchestrator.ledger import Account, Ledger
from orchestrator.records import RunRecord
from orchestrator.runs import RunStatus
from orchestrator.telemetry.whole_events import WholeEvents

logger = logging.getLogger("orchestrator")

_WRITE_SECONDS = 10.0
"""Between two writes while steps are taken; whatever else happens is written at once."""
_ASK_SECONDS = 0.1

Show = Callable[[Ledger], None]


class LedgerKeeper:
    """Of one launch, from ``with`` on until it is ended."""

    def __init__(self, record: RunRecord, status: RunStatus) -> None:
        """
        Args:
            record: of the run.
            status: of the launch, which has not ended.

        """
        self._record, self._launch = record, status.launch
        earlier = known_ledger(record, status.launch) or Ledger()
        earlier = earlier.with_launches(status.launches_before())
        self._account = Account({status.launch: status.submitted_at}, earlier, record.reached())
        self._lock, self._has_news, self._over = threading.Lock(), threading.Event(), threading.Event()
        self._total_steps = status.total_steps
        self._show: Show = _show_nobody
        self._told = Ledger()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def __enter__(self) -> Self:
        self._out = sys.stdout
        sys.stdout = self._heard = _Heard(self._out, self._take)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._heard.close()
        sys.stdout = self._out
        self._over.set()
        self._has_news.set()
        self._thread.join()

    @contextlib.contextmanager
    def shown(self, show: Show) -> Iterator[None]:
        """Show the ledger elsewhere too, each time that it is written."""
        self._show = show
        try:
            yield
        finally:
            with self._lock:
                self._show = _show_nobody

    def ended(self, at: float) -> Ledger:
        """The launch has ended, in seconds since the epoch: what happens from now on belongs to nobody."""
        self._take({"event": "end", "time": at})
        self._write()
        with self._lock:
            return self._account.ledger

    def _take(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._account.take(event)
        is_a_log = event["event"] in ("metrics", "ledger", "checkpoint")
        if not is_a_log or event.get("step") == self._total_steps:
            self._has_news.set()

    def _work(self) -> None:
        while not self._over.is_set():
            self._has_news.wait(_WRITE_SECONDS)
            self._has_news.clear()
            self._write()

    def _shown(self, ledger: Ledger) -> None:
        """Elsewhere: one that can't show it is asked no more, and the ledger goes on."""
        try:
            self._show(ledger)
        except Exception as error:
            self._show = _show_nobody
            logger.warning("the ledger's gauges are not shown any more: %s: %s", type(error).__name__, error)

    def _write(self) -> None:
        with self._lock:
            ledger = self._account.ledger
            if ledger == self._told:
                return
            # storage that fails for a moment is told at the next; of a launch that was taken over another one tells
            with contextlib.suppress(OSError, SupersededError):
                self._record.set_ledger(self._launch, ledger)
                self._told = ledger
            self._shown(ledger)
        events.emit("ledger", effective=round(ledger.effective, 4), wall=round(ledger.wall, 1))


class _Heard:
    """A stream that gets whole lines, though several threads write to it, and whose events are taken as well: Ray writes a
    worker's line and its end apart.
    """

    def __init__(self, stream: TextIO, take: Callable[[Mapping[str, Any]], None]) -> None:
        self._stream, self._take = stream, take
        self._of_thread, self._one_by_one = threading.local(), threading.Lock()
        self._whole_events = WholeEvents()

    def write(self, text: str) -> int:
        """Whole lines are written, and the rest with what follows it."""
        whole, end, self._of_thread.rest = (self._rest + text).rpartition("\n")
        if end:
            with self._one_by_one:
                lines = list(self._whole_events.of(whole.split("\n")))
            self._write("".join(f"{line}\n" for line in lines))
            for event in filter(None, map(events.parse, lines)):
                self._take(event)
        return len(text)

    def close(self) -> None:
        """All is written, be it whole or not."""
        self.flush()
        self._write("".join(f"{line}\n" for line in self._whole_events.rest()))

    def flush(self) -> None:
        """What this thread has written is seen, be it a whole line or not."""
        rest, self._of_thread.rest = self._rest, ""
        self._write(rest)

    @property
    def _rest(self) -> str:
        return getattr(self._of_thread, "rest", "")

    def _write(self, text: str) -> None:
        with self._one_by_one:
            self._stream.write(text)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _show_nobody(ledger: Ledger) -> None:
    """Nothing."""


def known_ledger(record: RunRecord, launch: int) -> Ledger | None:
    """A launch's ledger; None, with a warning, where what is written there is none."""
    try:
        return record.ledger(launch)
    except RecordError as error:
        logger.warning("%s; the time before now is not told", error)
        return None


def ledger_after(record: RunRecord, launch: int, step: int, patience: float) -> Ledger | None:
    """A launch's ledger with the log of a step in it, which the driver hears a moment after it was told; None where none is kept.

    Args:
        record: of the run.
        launch: the launch.
        step: the last one that was logged.
        patience: seconds that it is waited for; then it is given as it is.

    """
    deadline = time.monotonic() + patience
    while True:
        ledger = known_ledger(record, launch)
        if ledger is None or ledger.step >= step or time.monotonic() >= deadline:
            return ledger
        time.sleep(_ASK_SECONDS)
