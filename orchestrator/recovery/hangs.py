"""Whether a group of ranks hangs, which of them the others wait for, and what is written about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.recovery.beats import Beat, Sight

PATIENCE = 10
"""A start, a wait for data, an evaluation, a save and samples may take so many times ``recovery.hang_timeout``."""


class HangCheck:
    """Follows the beats of one attempt's ranks."""

    def __init__(self, hang_timeout: float) -> None:
        """
        Args:
            hang_timeout: seconds that a rank may stand still beyond the longest step seen so far.

        """
        self._hang_timeout = hang_timeout
        self._beats: dict[int, Beat] = {}
        self._since: dict[int, float] = {}
        self._silent_since: dict[int, float] = {}
        self._heard_at: dict[int, float] = {}
        self._looked_at = 0.0

    def longest_stillness(self, beats: Mapping[int, Beat | None], now: float) -> float:
        """Seconds for which a rank has stood still that may not; 0 where none has.

        Args:
            beats: by rank; None of one that did not answer, of which the last one counts.
            now: seconds of a clock that only goes forward.

        """
        self._looked_at = now
        for rank, beat in beats.items():
            known = self._beats.get(rank)
            if known is None or beat is not None:
                self._heard_at[rank] = now
            if known is None or (beat is not None and beat != known):
                self._since[rank] = now
            self._beats[rank] = beat or known or Beat()
            if beat is not None:
                self._silent_since.pop(rank, None)
            elif self._beats[rank].longest_step:
                self._silent_since.setdefault(rank, now)
        stillness = max((now - since for since in self._since.values()), default=0.0)
        silence = max((now - since for since in self._silent_since.values()), default=0.0)
        if silence > self._limit_of_steps:
            return silence
        return stillness if stillness > self._limit else 0.0

    def stillness(self, now: float) -> dict[int, float]:
        """By rank, seconds since its last beat."""
        return {rank: now - since for rank, since in self._since.items()}

    def heard_within(self, seconds: float) -> frozenset[int]:
        """Ranks that have given their beat within so many seconds before the last look."""
        return frozenset(rank for rank, at in self._heard_at.items() if self._looked_at - at < seconds)

    @property
    def _limit(self) -> float:
        """Seconds that a rank may stand still as things are: of all ranks the most, since they wait for each other."""
        if any(beat.may_take_long for beat in self._beats.values()):
            return PATIENCE * self._hang_timeout
        return self._limit_of_steps

    @property
    def _limit_of_steps(self) -> float:
        """The same within a step. A process that takes steps and answers nothing for so long is not busy with anything."""
        return self._hang_timeout + max((beat.longest_wait for beat in self._beats.values()), default=0.0)

    @property
    def beats(self) -> dict[int, Beat]:
        """The last one known of each rank."""
        return dict(self._beats)


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    host: str
    pid: int


@dataclass(frozen=True)
class Hang:
    """What is known of a hang."""

    seconds: float
    """How long a rank has stood still."""
    beats: Mapping[int, Beat]
    """The last of each rank."""
    places: Mapping[int, Place]
    """Of each rank."""
    sights: Mapping[int, Sight]
    """Of the ranks that answered when they were asked what they do."""
    heard: frozenset[int] = frozenset()
    """Ranks whose process gave its beat lately: one that did not answer all the same is busy, not gone."""

    @property
    def attempt(self) -> int:
        """The attempt that hangs."""
        return max(beat.attempt for beat in self.beats.values())

    @property
    def silent(self) -> list[int]:
        """Ranks that answer nothing any more; none where that is so of several and no other answers either."""
        silent = sorted(self._unanswered - self.heard)
        return silent if len(silent) < len(self.places) or len(silent) == 1 else []

    @property
    def _unanswered(self) -> set[int]:
        return self.places.keys() - self.sights.keys()

    @property
    def blamed(self) -> list[int]:
        """Ranks that the others wait for; empty where that can't be told."""
        if self.silent or not self.sights:
            return self.silent
        return _missing_in_a_collective(self.sights.values()) or _by_place(self.sights, len(self.places))

    @property
    def sentence(self) -> str:
        """For a person: who, where, in what, for how long."""
        if not self.blamed:
            still = f"all workers have stood still for {self.seconds:.0f} s, in {self.beats[0].doing}"
            if unanswered := len(self._unanswered):
                return (
                    f"{still}; {unanswered} of {len(self.places)} did not say in time what they do, so it is not known which"
                    " one is waited for"
                )
            return f"{still}, and none is known to be behind"
        return "; ".join(self._of(rank) for rank in self.blamed)

    def _of(self, rank: int) -> str:
        place = self.places[rank]
        who = f"worker {rank} (process {place.pid} on {place.host})"
        did = "has not answered" if rank in self.silent else "has not moved"
        return f"{who} {did} for {self.seconds:.0f} s, in {self.beats[rank].doing}"


def _missing_in_a_collective(sights: Iterable[Sight]) -> list[int]:
    """Ranks that have not begun a collective of a group that another rank is in."""
    of_ranks = list(sights)
    waited_for: dict[str, int] = {}
    for each in of_ranks:
        for group, number in each.pending.items():
            waited_for[group] = max(number, waited_for.get(group, 0))
    return sorted(
        each.rank
        for each in of_ranks
        if any(each.begun.get(group, number) < number for group, number in waited_for.items())
    )


def _by_place(sights: Mapping[int, Sight], world_size: int) -> list[int]:
    """Where torch's record says nothing: the ranks that wait for nobody, as the only one does; where all wait, those that
    have gone on without the others, which wait in a collective that they left out: of that, all must have answered.
    """
    busy = sorted(rank for rank, each in sights.items() if not each.waits)
    if busy:
        return busy if len(busy) < len(sights) or world_size == 1 else []
    if len(sights) < world_size:
        return []
    counts = {rank: each.beat.count for rank, each in sights.items()}
    furthest = max(counts.values())
    return sorted(rank for rank, count in counts.items() if count == furthest > min(counts.values()))


def incident_text(hang: Hang) -> str:
    """The incident file: the sentence, a line for each rank, and the stacks of all, those of the blamed first."""
    ranks: Sequence[int] = sorted(hang.places, key=lambda rank: (rank not in hang.blamed, rank))
    lines = [f"attempt {hang.attempt}: {hang.sentence}", ""]
    for rank in sorted(hang.places):
        place, beat = hang.places[rank], hang.beats[rank]
        seen = hang.sights.get(rank)
        inside = f"; in {', '.join(seen.collectives)}" if seen and seen.collectives else ""
        marked = "  <- waited for" if rank in hang.blamed else ""
        lines.append(f"rank {rank}  {place.host}  process {place.pid}  {beat.doing}{inside}{marked}")
    for rank in ranks:
        seen = hang.sights.get(rank)
        lines += ["", f"==== rank {rank} ====", seen.stacks if seen else "it did not answer"]
    return "\n".join(lines) + "\n"
