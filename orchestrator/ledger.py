"""Where a run's time went: each second from its submission to its end belongs to one part, told from the events of its output.

An event says what begins, so the time up to the next one is that part's; a log of training splits the time since the last by
the loop's own meter. Hence the parts add up to the wall time, over all launches and attempts that the output has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from orchestrator.runs import Began, RunState, RunStatus
from orchestrator.section import Section

STEP, REPLAY, DOWN, QUEUE, NODES, END = "step", "replay", "down", "queue", "waiting for nodes", "end"
IMAGE, ENVIRONMENT = "image", "environment"
BETWEEN = "between launches"
BEFORE = (QUEUE, IMAGE, ENVIRONMENT)
"""What may go by before a driver's first word: the queue, then the image is pulled, then Ray and the job's environment are made."""
START = "start: "
"""Before each stage of a start, but for the checkpoint that is read."""
RESTORE = "restore"
PREDICT = "predict"
_METER = {
    "data_wait": "data wait",
    "forward_backward": STEP,
    "optimizer": STEP,
    "checkpoint": "checkpoint",
    "evaluate": "evaluate",
    "samples": "samples",
    "other": "other",
}
"""Parts of the loop's meter, and what they are called here."""
_RUNNING = "steps that were not logged"
_ROUNDING = 1e-6
"""Seconds that are none."""


class Ledger(Section):
    """Seconds by part."""

    seconds: dict[str, float] = {}
    """``between launches`` from a launch's end to the submission that resumed it; ``step`` is what counted; ``replay`` what was taken again after it was lost; ``down`` from the last log before a fault to
    the next start; ``queue``, ``image`` and ``environment`` from a submission to its driver's first word; ``start: ...`` the stages of all starts, ``restore`` the one in
    which a checkpoint is read; ``end`` from the last log on: the last save, evaluation and the logged model.
    """
    steps: int = 0
    """Steps that counted."""
    faults: int = 0
    """Attempts that ended early."""
    waited_for: dict[int, float] = {}
    """Seconds that the others waited for a rank whose forward passes took longer, by rank. They are seconds of ``step``."""
    communication: float = 0.0
    """Seconds that even the rank that waited least waited for gradients of the others: an estimate of what communication takes
    that no computation hides. They are seconds of ``step``.
    """
    shrunken: float = 0.0
    """Where the number of workers may change: seconds of steps that counted, times the share of the most workers that was
    missing. It lies within ``step``: what the missing workers could have done, not what went by.
    """
    spares: float = 0.0
    """Seconds for which room was held for spare workers, times their number. They lie beside the parts."""
    step: int = 0
    """The last one that was logged."""
    launch: int = 0
    """The newest launch."""
    began_at: float = 0.0
    """When its first driver began, in seconds since the epoch."""
    charged_from: float = 0.0
    """From when on its time is charged: its submission, where the driver knew that, or its cluster told it."""
    free_from: float = 0.0
    """When the launch before it had ended; 0 where there was none."""
    doing: str = ""
    """The part of the time behind ``until``; empty where the run has ended."""
    until: float = 0.0
    """Up to when the parts go, in seconds since the epoch."""
    is_told_apart: bool = False
    """Whether the newest launch's driver has told what it waited for."""

    @property
    def wall(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())

    @property
    def of_launches(self) -> float:
        """All seconds in which a launch of it was there."""
        return self.wall - self.seconds.get(BETWEEN, 0.0)

    @property
    def effective(self) -> float:
        """Effective training time: the share of its launches' time that steps took that counted."""
        return self.seconds.get(STEP, 0.0) / self.of_launches if self.of_launches else 0.0

    def with_launches(self, launches: Iterable[RunStatus], now: float | None = None) -> Ledger:
        """With what no driver of a run's launches has told: how long those waited that never had one, and what came behind the last
        word of one that had.

        Args:
            launches: the newest ones, as their cluster knows them, oldest first.
            now: up to when, of one that has not ended, in seconds since the epoch.

        """
        account = Account({}, self)
        for launch in launches:
            if launch.launch > account.launch:
                account.never_began(launch, now)
            elif launch.launch == account.launch and account.doing:
                account.says_no_more(launch, now)
        return account.ledger

    def ended(self, at: float) -> Ledger:
        """With its end."""
        account = Account({}, self)
        account.take({"event": "end", "time": at})
        return account.ledger


def ledger_of(told: Iterable[Mapping[str, Any]], submitted_at: Mapping[int, float]) -> Ledger:
    """The ledger of a run's events.

    Args:
        told: events of the output, oldest first, of one or more launches.
        submitted_at: of each launch, in seconds since the epoch, where it is known.

    """
    account = Account(submitted_at)
    for event in told:
        account.take(event)
    return account.ledger


def _known_until(status: RunStatus, now: float | None) -> float:
    """Up to when a launch is known, in seconds since the epoch: its submission where nobody knows when it ended."""
    return (status.ended_at if status.state.is_final else now) or status.submitted_at


def _part_of(stage: str) -> str:
    if stage == "reading the checkpoint":
        return RESTORE
    return PREDICT if stage.startswith("predicting") else f"{START}{stage}"


class Account:
    """A ledger that goes on with each event."""

    def __init__(
        self, submitted_at: Mapping[int, float], earlier: Ledger | None = None, reached: int = 0
    ) -> None:
        """
        Args:
            submitted_at: of each launch, in seconds since the epoch, where it is known.
            earlier: what it goes on with.
            reached: the last step that any attempt before has logged or saved.

        """
        found = earlier or Ledger()
        self.submitted_at = submitted_at
        self.seconds, self.waited_for = dict(found.seconds), dict(found.waited_for)
        self.steps, self.faults, self.communication = found.steps, found.faults, found.communication
        self.shrunken, self.missing = found.shrunken, 0.0
        """``missing``: of the most workers that there may be, the share that there is not."""
        self.spares, self.held, self.told_at = found.spares, 0, found.until
        """``held``: spare workers that room is held for since ``told_at``."""
        self.step, self.launch = found.step, found.launch
        self.began_at, self.charged_from = found.began_at, found.charged_from
        self.is_told_apart = found.is_told_apart
        self.doing = found.doing
        """What the time from here on is charged to; empty between launches."""
        self.at = found.until
        """Up to when all is charged."""
        self.free_from = found.free_from
        self.reached = max(reached, found.step)
        """The last step that any attempt has logged or saved."""
        self.step_seconds = 0.0
        """Of one step, by the last log."""
        self.unlogged = 0.0
        """Seconds from the last log to the fault after it, which are charged to ``down`` as long as nobody knows better."""

    @property
    def ledger(self) -> Ledger:
        """As it stands."""
        return Ledger(
            seconds=dict(self.seconds),
            steps=self.steps,
            faults=self.faults,
            waited_for=dict(self.waited_for),
            communication=self.communication,
            shrunken=self.shrunken,
            spares=self.spares,
            step=self.step,
            launch=self.launch,
            began_at=self.began_at,
            charged_from=self.charged_from,
            free_from=self.free_from,
            doing=self.doing,
            until=self.at,
            is_told_apart=self.is_told_apart,
        )

    def charge(self, until: float) -> float:
        """Charge the time up to here to what is done, and return it. Clocks of two machines may differ, so none is charged twice."""
        spent = max(0.0, until - self.at)
        if self.doing and spent:
            self.seconds[self.doing] = self.seconds.get(self.doing, 0.0) + spent
        self.at = max(self.at, until)
        return spent

    def _move(self, seconds: float, source: str, target: str) -> None:
        self.seconds[source] -= seconds
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def take(self, event: Mapping[str, Any]) -> None:
        """The next event of the run's output. Of a kind that says nothing of time it changes nothing."""
        time = event.get("time", self.at)
        self.spares += self.held * max(0.0, time - self.told_at)
        self.told_at = max(self.told_at, time)
        match event:
            case {"event": "spares", "held": int(held)}:
                self.held = held
            case {"event": "state" | "end"}:
                self.held = 0
        self._take(event, time)

    def _take(self, event: Mapping[str, Any], time: float) -> None:
        match event:
            case {"event": "state", "launch": int(launch)}:
                self._begins(time, launch)
            case {"event": "waited", "parts": [_, *_] as parts} if self.doing:
                self._waited(parts)
            case {"event": "stage", "doing": str(stage)} if self.doing:
                self._goes_on(time, _part_of(stage))
            case {"event": "waiting"} if self.doing:
                self._goes_on(time, NODES)
            case {"event": "attempt", "start_step": int(start)} if self.doing:
                self.charge(time)
                self._starts_from(start)
            case {"event": "metrics", "step": int(step), "values": {"system/other_ms": _}} if self.doing:
                self._logged(time, step, event["values"])
            case {"event": "incident"} if self.doing:
                self._failed(time)
            case {"event": "resize"} if self.doing:
                self._goes_down(time)
            case {"event": "group", "workers": int(workers), "most": int(most)}:
                self.missing = 1 - workers / most
            case {"event": "end"} if self.doing:
                self._goes_on(time, "")

    def never_began(self, status: RunStatus, now: float | None = None) -> None:
        """A launch that ended without a driver, or has none up to now: what its cluster can't tell apart is queue."""
        until = _known_until(status, now)
        self._lies_idle(min(status.submitted_at, until))
        begin, self.at, self.launch = self.at, max(self.at, until), status.launch
        self._add(QUEUE, self.at - begin)
        self._tell_apart(status.waited, begin, self.at)

    def says_no_more(self, status: RunStatus, now: float | None = None) -> None:
        """The launch, behind its driver's last word: that goes on as long as the driver lives; one that ended without a word, or waits
        for another driver since its queue took the nodes back, is down.
        """
        until = _known_until(status, now)
        if status.state.is_final:
            self._failed(until)
            self.doing = ""
        elif status.state is RunState.PENDING:
            self._failed(until)
        else:
            self.charge(until)

    def _lies_idle(self, until: float) -> None:
        """Up to the submission of a launch, where there was one before it."""
        if self.at:
            self._add(BETWEEN, max(0.0, until - self.at))
        self.at, self.doing = max(self.at, until), ""

    def _begins(self, time: float, launch: int) -> None:
        """A launch's driver begins: the first one, or another in the place of one that was lost."""
        if self.doing and launch == self.launch:
            self._failed(time)
        else:
            self.free_from = self.at
            self._lies_idle(min(self.submitted_at.get(launch, time), time))
            self.doing = QUEUE
            self.began_at, self.charged_from, self.is_told_apart = time, self.at, False
        self.launch = launch
        self._goes_on(time, f"{START}starting the driver")

    def _waited(self, parts: Sequence[Began]) -> None:
        """The driver has learnt what its launch waited for before its first word, each part from its moment up to the next one's;
        of clocks that differ none is charged twice, and a driver in the place of a lost one tells nothing new.
        """
        begin = min(max(parts[0][1], self.free_from), self.charged_from)
        self._add(QUEUE, self.charged_from - begin)
        if self.free_from:
            self._add(BETWEEN, begin - self.charged_from)
        self.charged_from = begin
        if self.is_told_apart:
            return
        self.is_told_apart = True
        self._tell_apart(parts, begin, self.began_at)

    def _tell_apart(self, parts: Sequence[Began], begin: float, until: float) -> None:
        """Of a launch's wait, which is charged to the queue, each part from its moment up to the next one's."""
        at = begin
        for (part, _), (_, end) in pairwise([*parts, ("", until)]):
            end = min(max(end, at), until)
            if end > at:
                self._move(end - at, QUEUE, part)
            at = end
        for part in (QUEUE, BETWEEN):
            if self.seconds.get(part, 0.0) < _ROUNDING:
                self.seconds.pop(part, None)

    def _goes_on(self, time: float, doing: str) -> None:
        """From training on: to the end, or, without a fault that was told, to another attempt in the same processes."""
        if self.doing == _RUNNING:
            self.doing = DOWN if doing else END
            self.unlogged = self.charge(time) if doing else 0.0
        self.charge(time)
        self.doing = doing

    def _starts_from(self, step: int) -> None:
        """Steps behind the last log that were saved all the same, as on a notice, did count."""
        kept = min(self.unlogged, max(0, step - self.step) * self.step_seconds)
        if kept and step > self.reached:
            self._move(kept, DOWN, STEP)
            self.steps += step - self.reached
        self.unlogged, self.step = 0.0, step
        self.reached = max(self.reached, step)

    def _failed(self, time: float) -> None:
        self.faults += 1
        self._goes_down(time)

    def _goes_down(self, time: float) -> None:
        """The workers have left, to start again."""
        was_running = self.doing == _RUNNING
        self.doing = DOWN if was_running else self.doing
        spent = self.charge(time)
        self.unlogged = spent if was_running else 0.0
        self.doing = DOWN

    def _logged(self, time: float, step: int, values: Mapping[str, float]) -> None:
        """Split the time since the last log by what the loop's meter says of its steps."""
        count = max(1, step - self.step)
        measured = {part: values.get(f"system/{part}_ms", 0.0) * count / 1e3 for part in _METER}
        total = sum(measured.values())
        if self.doing != _RUNNING:
            self.charge(max(self.at, time - total))  # the loop began then
        new = max(0, step - max(self.reached, self.step))
        spent = max(0.0, time - self.at)
        scale = spent / total if total else 0.0
        for part, seconds in measured.items():
            name = _METER[part]
            self._add(name, seconds * scale * new / count)
            self.shrunken += self.missing * (name == STEP) * seconds * scale * new / count
            self._add(REPLAY, seconds * scale * (1 - new / count))
        self.at = max(self.at, time)
        self.doing, self.step, self.step_seconds = _RUNNING, step, spent / count
        self.reached, self.steps = max(self.reached, step), self.steps + new
        if "system/slowest_rank" in values:
            rank = int(values["system/slowest_rank"])
            behind = values["system/slowest_rank_behind_ms"] * count / 1e3
            self.waited_for[rank] = self.waited_for.get(rank, 0.0) + behind
        self.communication += values.get("system/communication_ms", 0.0) * new / 1e3

    def _add(self, part: str, seconds: float) -> None:
        if seconds:
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
