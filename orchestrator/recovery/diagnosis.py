"""What all ranks of a run do now, and which one the others wait for: asked for by a file in the run's record, which its driver
answers by another. Pure, but for those two files.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping

from orchestrator.records import RunRecord
from orchestrator.recovery.beats import Sight
from orchestrator.recovery.hangs import Hang
from orchestrator.section import Section

_ASKED, _ANSWER = "control/diagnose", "control/diagnosis.json"
_ASK_AGAIN_SECONDS = 0.25
_STILL_SECONDS = 2.0
"""Where no rank stands still for longer, and for longer than two of its steps, all go on."""


class RankNow(Section):
    """One rank."""

    rank: int
    host: str
    pid: int
    doing: str
    """What it does since its last beat."""
    still_seconds: float
    """Since then."""
    answers: bool
    """Whether its process said what it does."""
    waits: bool = False
    """Whether its training thread waits for other ranks."""
    collectives: tuple[str, ...] = ()
    """Those that it has begun and that have not ended, by torch's flight recorder."""
    stack: tuple[str, ...] = ()
    """Python frames of the thread that trains, the outermost first."""
    threads: str = ""
    """Python stacks of all its threads."""


class Diagnosis(Section):
    """All ranks at one moment."""

    taken_at: float
    """Seconds since the epoch."""
    attempt: int = 0
    """The attempt; 0 while no worker trains."""
    waited_for: tuple[int, ...] = ()
    """Ranks that the others wait for; empty where all go on, or that can't be told."""
    sentence: str
    """For a person: who is waited for, where, in what, for how long."""
    ranks: tuple[RankNow, ...] = ()
    """In their order."""


class _Answer(Section):
    to: str
    """What was asked."""
    diagnosis: Diagnosis


def nobody_trains() -> Diagnosis:
    """Where there are no workers."""
    return Diagnosis(
        taken_at=time.time(), sentence="no worker trains now: the run starts, starts again, or ends"
    )


def diagnosis_of(seen: Hang, still: Mapping[int, float]) -> Diagnosis:
    """From what ranks said when they were asked.

    Args:
        seen: all ranks.
        still: by rank, seconds since its last beat.
    """
    longest_wait = max((beat.longest_wait for beat in seen.beats.values()), default=0.0)
    goes_on = not seen.silent and max(still.values()) <= max(_STILL_SECONDS, 2 * longest_wait)
    waited_for = () if goes_on else tuple(seen.blamed)
    slowest = max(still, key=lambda rank: still[rank])
    sentence = (
        f"all workers go on; worker {slowest} has done the same for longest: {still[slowest]:.1f} s of"
        f" {seen.beats[slowest].doing}"
    )
    return Diagnosis(
        taken_at=time.time(),
        attempt=seen.attempt,
        waited_for=waited_for,
        sentence=sentence if goes_on else seen.sentence,
        ranks=tuple(_rank_now(rank, seen, still[rank]) for rank in sorted(seen.places)),
    )


def _rank_now(rank: int, seen: Hang, still: float) -> RankNow:
    place, said = seen.places[rank], seen.sights.get(rank)
    known = RankNow(
        rank=rank,
        host=place.host,
        pid=place.pid,
        doing=seen.beats[rank].doing,
        still_seconds=round(still, 3),
        answers=said is not None,
    )
    return known if said is None else known.model_copy(update=_said(said))


def _said(said: Sight) -> dict[str, object]:
    return {
        "waits": said.waits,
        "collectives": said.collectives,
        "stack": said.stack,
        "threads": said.stacks,
    }


def ask(record: RunRecord, timeout: float) -> Diagnosis | None:
    """Ask a run's driver, and wait for its answer; None where none comes in time. Raises OSError where the storage fails."""
    before = _newest_answer(record)
    asked = secrets.token_hex(8)
    record.store.write(_ASKED, asked.encode())
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        answer = _newest_answer(record)
        # one to somebody who asked at the same moment is as good
        if answer is not None and (before is None or answer.to != before.to):
            return answer.diagnosis
        time.sleep(_ASK_AGAIN_SECONDS)
    return None


def _newest_answer(record: RunRecord) -> _Answer | None:
    return record.section(_ANSWER, _Answer)


class Answers:
    """The driver's side."""

    def __init__(self, record: RunRecord) -> None:
        """What was asked before this launch is not answered by it."""
        self._record = record
        self._answered = self._asked()

    def answer(self, look: Callable[[], Diagnosis]) -> None:
        """Answer whoever has asked since the last call. Raises OSError where the storage fails; then the next call answers."""
        asked = self._asked()
        if asked and asked != self._answered:
            found = _Answer(to=asked, diagnosis=look())
            self._record.store.write(_ANSWER, found.model_dump_json(indent=2).encode())
            self._answered = asked

    def _asked(self) -> str:
        try:
            return self._record.store.read(_ASKED, 0, 64).decode(errors="replace")
        except FileNotFoundError:
            return ""
