"""A run to hold on to: its status, lines and ledger, and to stop it, resume it or ask its model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import events, progress
from orchestrator.errors import (
    CheckpointError,
    InfrastructureError,
    NotFoundError,
    SpecError,
    StoppedError,
    TrainwrightError,
)
from orchestrator.ledger import Ledger, ledger_of
from orchestrator.narration import narrated
from orchestrator.plans import revised
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus
from orchestrator.storage import is_uri
from orchestrator.storage.arrow import has_arrow
from orchestrator.stored_run import StoredRun

if TYPE_CHECKING:
    from orchestrator.clusters.base import Cluster
    from orchestrator.recovery.diagnosis import Diagnosis

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5


class Run(StoredRun):
    """A submitted plan."""

    def __init__(self, run_id: str, cluster: Cluster) -> None:
        self.id = run_id
        self.cluster = cluster

    def __repr__(self) -> str:
        return f"Run({self.id!r}, cluster={self.cluster.profile.name!r})"

    def status(self) -> RunStatus:
        """How it stands now. Where it has ended and its tracker was not told, as by a driver that was lost, it is."""
        return _tracked(self.cluster.status(self.id))

    def wait(self, timeout_seconds: float | None = None, *, check: bool = True) -> RunStatus:
        """Block until it has ended.

        Raises:
            TimeoutError: it hasn't ended in time.
            StoppedError, UserCodeError, InfrastructureError: it did not succeed (with ``check``), with its message.

        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not (status := self.status()).state.is_final:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{self.id} is {status.state} after {timeout_seconds:g} s")
            time.sleep(_WAIT_SECONDS)
        if check and status.reason is not None and status.reason.exit_code:
            raise _error_for(status)
        return status

    def follow(self) -> RunStatus:
        """Show how it goes until it has ended, and return its last status, whatever that is. In a notebook it is one table
        that is kept up to date; elsewhere a line is printed for each change. An interrupt ends the view, not the run.
        """
        return progress.shown(self._changes())

    def _changes(self) -> Iterator[RunStatus]:
        before = None
        while True:
            status = self.status()
            if status != before:
                yield status
            if status.state.is_final:
                return
            before = status
            time.sleep(_WAIT_SECONDS)

    def logs(self, *, follow: bool = False, rank: int | None = None, raw: bool = False) -> Iterator[str]:
        """What happened, a line each: stages, epochs, evaluations, saves, faults, and what the driver or one rank printed.

        Of a traceback there is the line that says what it was; ``raw`` gives every line as it was written.
        """
        lines = self.cluster.logs(self.id, follow=follow, rank=rank)
        return lines if raw else narrated(lines)

    def metrics(self) -> list[dict[str, float]]:
        """Every logged point, in order of steps: ``{"step": 10, "train/loss": 1.3, ...}``. A step that was taken again
        after a fault is there once, as it was last.
        """
        points: dict[int, dict[str, float]] = {}
        for line in self.cluster.logs(self.id):
            event = events.parse(line)
            if event and event["event"] == "metrics":
                points.setdefault(event["step"], {"step": event["step"]}).update(event["values"])
        return [points[step] for step in sorted(points)]

    def ledger(self) -> Ledger:
        """Where its time went, over all of its launches, up to its end or to now. Where this machine can't read the run's storage:
        of the newest launch whose output the cluster has kept; while a resumed one has none, its driver not having begun, of all
        launches before it, for which the cluster is asked.

        Raises:
            NotFoundError: there is no such run.
        """
        status = self.status()
        now = None if status.state.is_final else time.time()
        return self._told_ledger(status).with_launches([*status.launches_before(), status], now)

    def _told_ledger(self, status: RunStatus) -> Ledger:
        """As far as the run's drivers have told it."""
        with suppress(OSError, InfrastructureError, NotFoundError):
            kept = RunRecord(self._storage_here()).ledger(status.launch)
            if kept is not None:
                return kept
        try:
            told = [event for line in self.cluster.logs(self.id) if (event := events.parse(line))]
        except InfrastructureError as error:
            if not status.waited:
                raise
            # as a rule a launch whose cluster knows of no driver has none; one whose queue took its nodes back may have had one
            log.warning("only what %s waits for is told: %s", self.id, error)
            return Ledger()
        if told or status.launch == 1:
            return ledger_of(told, {status.launch: status.submitted_at})
        try:
            store = self.cluster.storage(f"runs/{self.id}")
            return RunRecord(store.root, store).ledger(status.launch) or Ledger()
        except InfrastructureError as error:
            log.warning("what %s did before launch %d is not told: %s", self.id, status.launch, error)
            return Ledger()

    def diagnose(self, timeout_seconds: float = 20.0) -> Diagnosis:
        """What all of its workers do now: their stacks, and which one the others wait for.

        Raises:
            SpecError: it has ended.
            InfrastructureError: it has not begun, it did not answer in time, or its storage can't be read from this machine.
            NotFoundError: there is no such run.
        """
        from orchestrator.clusters.shared.run_records import storage_record
        from orchestrator.recovery.diagnosis import ask

        status = self.status()
        if status.state.is_final:
            raise SpecError(f"{self.id} has ended ({status.state}): diagnose looks at workers that live")
        if status.state is RunState.PENDING:
            raise InfrastructureError(f"{self.id} has not begun: {status.message or 'its driver starts'}")
        found = ask(storage_record(self._storage_here()), timeout_seconds)
        if found is None:
            raise InfrastructureError(
                f"{self.id} did not answer within {timeout_seconds:g} s: its driver is busy, stopped or gone; trainwright"
                f" status {self.id} says how it stands"
            )
        return found

    def stop(self, *, now: bool = False) -> RunStatus:
        """Ask for a graceful stop, or end it ``now``. Returns at once."""
        return _tracked(self.cluster.stop(self.id, now=now))

    def sync(self) -> int | None:
        """Send what the tracker lacks of the run, and its end where it has ended; where the run was deleted there, it is
        made again. Returns the number of metric values, None while the run sends by itself.

        Raises:
            NotFoundError: the run keeps nothing for a tracker, or its storage can't be read from here.
            InfrastructureError: the tracker did not take all.
        """
        from orchestrator.telemetry.closing import sync

        status = self.cluster.status(self.id)
        return sync(storage_of(status), status if status.state.is_final else None, anew=True)

    def resume(self, overrides: Iterable[str] = (), *, from_checkpoint: str = "newest") -> RunStatus:
        """Launch it again from one of its checkpoints: the ``newest`` good one, the ``best``, or that of a step.

        ``overrides`` (``scaling.workers=8``) change where and how it goes on, not what is trained: see
        ``planning.revise``.

        Raises:
            SpecError: for other overrides, and for what is no checkpoint's name.
            NotFoundError: there is no such checkpoint.
        """
        if from_checkpoint != "newest":
            with suppress(CheckpointError):  # storage that only the cluster reaches: there it is looked for
                self.checkpoint(from_checkpoint)
        return self.cluster.resume(
            self.id, partial(revised, overrides=tuple(overrides), from_checkpoint=from_checkpoint)
        )

    def delete(self, *, keep_tracked: bool = False) -> None:
        """Delete it, as ``sdk.delete`` does."""
        from orchestrator import housekeeping

        housekeeping.refuse_undeletable(self.cluster, [self.id])
        housekeeping.delete(self.cluster, [self.id], keep_tracked=keep_tracked)

    def _storage(self) -> str:
        return storage_of(self.status())

    def _checkpoints(self) -> str:
        return self.status().urls["checkpoints"]

    def _storage_here(self) -> str:
        storage = self._storage()
        if not storage:
            raise NotFoundError(f"{self.id} has no checkpoint yet")
        root = storage.removesuffix(f"/runs/{self.id}")
        if not is_uri(root) and not Path(root).is_dir():
            raise InfrastructureError(
                f"{self.id}: its files lie in {root} of cluster {self.cluster.profile.name}, a folder that this machine"
                " does not have; do it on one that has it"
            )
        return storage


def storage_of(status: RunStatus) -> str:
    """The folder or prefix of a run's files; empty where the run has none yet."""
    return status.urls.get("checkpoints", "").removesuffix("/checkpoints")


def _tracked(status: RunStatus) -> RunStatus:
    """The status; the tracker has been told where it is an end, unless only the cluster can read what it was not told yet."""
    from orchestrator.telemetry.closing import close_quietly

    storage = storage_of(status)
    if status.state.is_final and storage and (has_arrow() or not is_uri(storage)):
        close_quietly(storage, status)
    return status


def _error_for(status: RunStatus) -> TrainwrightError:
    from orchestrator import errors

    assert status.reason is not None
    kinds: dict[int, type[TrainwrightError]] = {2: SpecError, 3: errors.UserCodeError, 5: StoppedError}
    return kinds.get(status.reason.exit_code, errors.InfrastructureError)(
        f"{status.run_id}: {status.message}"
    )
