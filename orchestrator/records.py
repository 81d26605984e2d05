"""What a run leaves in its storage, and how it is read: the plan, each launch's state, its end, stop requests.

::

    <storage>/plan.json
    <storage>/launches/2/plan.json       the plan of a later launch
    <storage>/launches/1/state.json      the newest RunStatus, replaced as a whole
    <storage>/launches/1/final.json      the end; created once, never overwritten: the first writer wins
    <storage>/launches/1/driver.log      output of the driver
    <storage>/launches/1/drivers/1       a driver of the launch has begun; one with a higher number has taken over from it
    <storage>/launches/1/ledger.json     where the time of all launches up to this one went; written by its driver alone
    <storage>/control/stop-1             its existence asks launch 1 for a graceful stop
    <storage>/control/head-1             the pod of launch 1's head that will be taken away
    <storage>/control/deleted            the run is being deleted: what else is there is a part of it
    <storage>/control/left-out.json      steps that a spike of the loss has had left out
    <storage>/control/reached            the last step that any attempt logged
    <storage>/logs/attempt-1/rank-0.log  output of each worker
    <storage>/incidents/attempt-2.txt    what all ranks did in an attempt that hung, and which one was waited for
    <storage>/code/DIGEST.json           a person's own files, where the model is one of theirs
    <storage>/checkpoints/
"""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.errors import RecordError, SupersededError
from orchestrator.ledger import Ledger
from orchestrator.own_code import OwnCode
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.section import Section
from orchestrator.storage import Store, store_at

LONGEST_READ_BYTES = 4 * 2**20
"""One ``read_log`` returns at most this much, so that an answer fits whatever carries it."""

PLAN = "plan.json"
"""The plan that the run was first launched with."""
SUBMITTED = "submitted-at"
"""Beside the plan that a driver is given: when its cluster had the launch submitted, in seconds since the epoch by its own clock."""
_REACHED = "control/reached"
_LEFT_OUT = "control/left-out.json"
_DELETED = "control/deleted"


log = logging.getLogger(__name__)

Kept = TypeVar("Kept", bound=Section)


class LeftOut(Section):
    """Steps that the run has left out by itself."""

    steps: tuple[int, ...] = ()
    """In the order in which they were found."""


class RunRecord:
    """One run's records, in its store. Every method raises OSError where that fails."""

    def __init__(self, storage: str, store: Store | None = None) -> None:
        """
        Args:
            storage: the run's root, a path or URI.
            store: instead of the one that ``storage`` names.

        """
        self.storage = storage.rstrip("/")
        self.store = store or store_at(self.storage)

    def newest_launch(self) -> int:
        """Number of the newest launch; 0 where there is none."""
        launch = 0
        while self.store.exists(_state_name(launch + 1)):
            launch += 1
        return launch

    def status(self, launch: int | None = None) -> RunStatus | None:
        """How a launch stands (default: the newest): its end where it has one.

        Raises RecordError where what is written there is no status.
        """
        launch = launch or self.newest_launch()
        for name in (_end_name(launch), _state_name(launch)):
            if content := self._read(name):
                status = self._decoded(name, content, RunStatus)
                return status if status.state.is_final else self._with_effective(status)
        return None

    def _with_effective(self, status: RunStatus) -> RunStatus:
        """A ledger that is damaged is said by who asks for it; a run can be looked at and stopped all the same."""
        with contextlib.suppress(RecordError):
            if known := self.section(_ledger_name(status.launch), Ledger):
                return status.with_effective(known.effective)
        return status

    def ledger(self, launch: int) -> Ledger | None:
        """Where the time of a launch and of those before it went; that of an earlier one where it has not begun to tell.

        Raises RecordError where what is written there is no ledger.
        """
        found = (self.section(_ledger_name(number), Ledger) for number in range(launch, 0, -1))
        return next((ledger for ledger in found if ledger is not None), None)

    def set_ledger(self, launch: int, ledger: Ledger) -> None:
        """Write it. For the launch's driver alone."""
        self.store.write(_ledger_name(launch), ledger.model_dump_json(indent=2).encode())

    def section(self, name: str, kind: type[Kept]) -> Kept | None:
        """What one of the run's files holds. Raises RecordError where that is nothing of the kind."""
        content = self._read(name)
        return self._decoded(name, content, kind) if content else None

    def set_state(self, status: RunStatus) -> None:
        """Write how the launch stands. Has no effect on what readers see once it has ended."""
        self.store.write(_state_name(status.launch), _encoded(status))

    def end(self, status: RunStatus) -> RunStatus:
        """Write the launch's end, unless it has one; returns the end that holds. What was told before stays."""
        assert status.state.is_final
        told = self.status(status.launch)
        if told is not None:
            status = status.after(told)
        if self.store.create(_end_name(status.launch), _encoded(status)):
            return status
        earlier = self.status(status.launch)
        assert earlier is not None
        return earlier

    def keep_launches_before(self, status: RunStatus) -> None:
        """Write how those ended that came to no driver, as whoever sent this launch knew them, so that none is missing."""
        known = {launch.launch: launch for launch in status.launches_before()}
        for launch in range(status.launch - 1, 0, -1):
            if self.store.exists(_state_name(launch)):
                return
            ended = known.get(launch) or _unknown_end(status, launch)
            self.set_state(ended)
            self.end(ended)

    def newest_driver(self, launch: int) -> int:
        """Number of the newest driver that a launch has had; 0 where none has begun."""
        driver = 0
        while self.store.exists(_driver_name(launch, driver + 1)):
            driver += 1
        return driver

    def taken_over(self, launch: int) -> DriverRecord:
        """The record as a driver that begins writes it: from now on no earlier one of the launch writes any more."""
        driver = 1
        while not self.store.create(_driver_name(launch, driver), b""):
            driver += 1
        return DriverRecord(self.storage, self.store, launch, driver)

    @property
    def is_superseded(self) -> bool:
        """Whether another driver has taken over from the one whose record this is; of a reader's never."""
        return False

    def ask_to_stop(self, launch: int) -> None:
        """Ask a launch for a graceful stop. Asking again changes nothing."""
        self.store.write(_stop_name(launch), b"stop\n")

    def stop_was_asked(self, launch: int) -> bool:
        """Whether somebody asked a launch to stop."""
        return self.store.exists(_stop_name(launch))

    def tell_that_head_leaves(self, launch: int, pod: str) -> None:
        """Let a launch's drivers in a pod know that it will be taken away, and with it all of their Ray cluster."""
        self.store.write(_head_name(launch), pod.encode())

    def head_leaves(self, launch: int, pod: str) -> bool:
        """Whether that was told of this pod, and not of one that was the head's before it."""
        return self._read(_head_name(launch)) == pod.encode()

    def reached(self) -> int:
        """The last step that any attempt logged; 0, with a warning, where what is written there is no number."""
        content = self._read(_REACHED) or b"0"
        if not content.isdigit():
            log.warning("%s/%s is damaged: it should hold the number of a step", self.storage, _REACHED)
            return 0
        return int(content)

    def set_reached(self, step: int) -> None:
        """Write the last step that was logged."""
        self.store.write(_REACHED, str(step).encode())

    def left_out(self) -> tuple[int, ...]:
        """Steps that a spike of the loss has had left out. Raises RecordError where what is written there is nothing of the kind."""
        found = self.section(_LEFT_OUT, LeftOut)
        return found.steps if found else ()

    def leave_out(self, step: int) -> None:
        """Have a step left out by all attempts from now on."""
        steps = LeftOut(steps=(*self.left_out(), step))
        self.store.write(_LEFT_OUT, steps.model_dump_json().encode())

    @property
    def is_deleted(self) -> bool:
        """Whether its deletion was begun."""
        return self.store.exists(_DELETED)

    def delete(self) -> None:
        """Remove all of the run. If this process ends meanwhile, what is left says so, and doing it again ends it."""
        self.store.write(_DELETED, b"deleted\n")
        # behind all others what says that there is a run, then what keeps other commands away, then the word above
        names = sorted(self.store.list(""), key=lambda name: (name == "lock", name == PLAN))
        for name in (*(name for name in names if name != "control"), ""):
            self.store.remove(name)

    def keep_incident(self, attempt: int, text: str) -> str:
        """Keep what was seen of an attempt that hung; returns the file's name."""
        name = f"incidents/attempt-{attempt}.txt"
        self.store.write(name, text.encode())
        return name

    def keep_code(self, code: OwnCode) -> None:
        """Keep a person's own code under its digest."""
        if code.files:
            self.store.write(_code_name(code.digest), code.to_json())

    def code(self, digest: str) -> OwnCode:
        """The code of a digest; none where that is empty. Raises FileNotFoundError where it is gone."""
        return OwnCode.from_json(self.store.read(_code_name(digest))) if digest else OwnCode({})

    def rank_logs(self, rank: int) -> list[str]:
        """Names of a rank's logs, oldest attempt first."""
        attempts = [int(name[8:]) for name in self.store.list("logs") if re.fullmatch(r"attempt-\d+", name)]
        names = (rank_log_name(attempt, rank) for attempt in sorted(attempts))
        return [name for name in names if self.store.exists(name)]

    def read_log(self, name: str, offset: int = 0) -> bytes:
        """At most ``LONGEST_READ_BYTES`` of a log from a byte on; empty where there is none, or no more of it."""
        return self._read(name, offset, LONGEST_READ_BYTES) or b""

    def whole_log(self, name: str) -> bytes:
        """All of a log, however long; empty where there is none."""
        content = b""
        while piece := self.read_log(name, len(content)):
            content += piece
            if len(piece) < LONGEST_READ_BYTES:
                break
        return content

    def _decoded(self, name: str, content: bytes, kind: type[Kept]) -> Kept:
        try:
            return kind.model_validate_json(content)
        except (ValidationError, RecursionError) as error:
            raise RecordError(
                f"{self.storage}/{name} is damaged, or was not written by trainwright: {first_fault(error)}"
            ) from None

    def _read(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        try:
            return self.store.read(name, offset, length)
        except (FileNotFoundError, NotADirectoryError):
            return None


class DriverRecord(RunRecord):
    """The record of a launch as one of its drivers writes it. One that was taken for lost and comes back, as from a machine that
    stood still, finds that another has taken over: all it would write raises SupersededError.
    """

    def __init__(self, storage: str, store: Store, launch: int, driver: int) -> None:
        """
        Args:
            storage: the run's root.
            store: it.
            launch: the driver's.
            driver: its number, by ``taken_over``.

        """
        super().__init__(storage, store)
        self._next = _driver_name(launch, driver + 1)

    @property
    def is_superseded(self) -> bool:
        """See RunRecord."""
        return self.store.exists(self._next)

    def set_state(self, status: RunStatus) -> None:
        """See RunRecord."""
        self._refuse_superseded()
        super().set_state(status)

    def set_ledger(self, launch: int, ledger: Ledger) -> None:
        """See RunRecord."""
        self._refuse_superseded()
        super().set_ledger(launch, ledger)

    def end(self, status: RunStatus) -> RunStatus:
        """See RunRecord."""
        self._refuse_superseded()
        return super().end(status)

    def keep_incident(self, attempt: int, text: str) -> str:
        """See RunRecord."""
        self._refuse_superseded()
        return super().keep_incident(attempt, text)

    def ask_to_stop(self, launch: int) -> None:
        """See RunRecord."""
        self._refuse_superseded()
        super().ask_to_stop(launch)

    def _refuse_superseded(self) -> None:
        if self.is_superseded:
            raise SupersededError(
                f"another driver has taken this launch over ({self.storage}/{self._next}); this one ends, and writes nothing more"
            )


def rank_log_name(attempt: int, rank: int) -> str:
    """Where a rank's output is kept."""
    return f"logs/attempt-{attempt}/rank-{rank}.log"


def driver_log_name(launch: int) -> str:
    """Where the driver's output is kept."""
    return f"launches/{launch}/driver.log"


def plan_name(launch: int) -> str:
    """Where a launch's plan is; on this machine the first one's marks the folder as a run."""
    return PLAN if launch == 1 else f"launches/{launch}/plan.json"


def _state_name(launch: int) -> str:
    return f"launches/{launch}/state.json"


def _end_name(launch: int) -> str:
    return f"launches/{launch}/final.json"


def _driver_name(launch: int, driver: int) -> str:
    return f"launches/{launch}/drivers/{driver}"


def _ledger_name(launch: int) -> str:
    return f"launches/{launch}/ledger.json"


def _code_name(digest: str) -> str:
    return f"code/{digest}.json"


def _head_name(launch: int) -> str:
    return f"control/head-{launch}"


def _stop_name(launch: int) -> str:
    return f"control/stop-{launch}"


def first_fault(error: ValidationError | RecursionError) -> str:
    """What is wrong first, in a few words."""
    if isinstance(error, RecursionError):
        return "nested without end"
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _unknown_end(status: RunStatus, launch: int) -> RunStatus:
    """Of a launch that left nothing."""
    before = RunStatus(run_id=status.run_id, state=RunState.PENDING, name=status.name, launch=launch)
    return before.ended(RunState.FAILED, EndReason.DRIVER_LOST, "its driver never began", ended_at=None)


def _encoded(status: RunStatus) -> bytes:
    return status.model_dump_json(indent=2).encode()
