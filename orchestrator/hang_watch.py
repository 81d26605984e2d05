"""Ends an attempt that hangs: takes each rank's beat along with Ray Train's polls, asks all ranks what they do, writes that
down, and ends their processes so that the next attempt need not wait for them.

Seam: ``ray.train.v2``'s worker and its group's callbacks; covered by tests with real processes, the Ray minor is held.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker as RaysWorker

from orchestrator.errors import HangError
from orchestrator.recovery.beats import Sight, heart, sight
from orchestrator.recovery.diagnosis import Diagnosis, diagnosis_of, nobody_trains
from orchestrator.recovery.hangs import Hang, HangCheck, Place
from orchestrator.recovery.notice import ask_to_leave

_ANSWER_SECONDS, _BUSY_ANSWER_SECONDS = 5.0, 15.0
"""How long a rank may take to say what it does; and how much longer one that still gives its beats, on a busy host."""
_HEARD_LATELY_SECONDS = 2.0


class RayTrainWorker(RaysWorker):
    """Ray Train's worker, whose status has its beat."""

    def poll_status(self) -> Any:
        """See Ray Train."""
        status = super().poll_status()
        status.beat = heart.beat
        return status

    def ask_to_leave(self, why: str) -> None:
        """Have the group save and leave, so that it can start again with another size, or with another head."""
        ask_to_leave(why)

    def sight(self, rank: int) -> Sight:
        """What this process does now."""
        return sight(rank)


class HangWatch(WorkerGroupCallback):
    """Looks at each poll of the worker group."""

    def __init__(self, hang_timeout: float, keep: Callable[[Hang], str]) -> None:
        """
        Args:
            hang_timeout: ``recovery.hang_timeout``.
            keep: keeps a hang with the run, and returns where.

        """
        self._hang_timeout, self._keep = hang_timeout, keep
        self._check = HangCheck(hang_timeout)
        self._group: Any = None
        self._hangs = False

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self._group, self._hangs = worker_group, False
        self._check = HangCheck(self._hang_timeout)

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """A hang is an error of the rank that is waited for: what follows is the failure policy's to decide."""
        statuses = worker_group_status.worker_statuses
        if self._hangs or any(status.error or not status.running for status in statuses.values()):
            return
        beats = {rank: getattr(status, "beat", None) for rank, status in statuses.items()}
        seconds = self._check.longest_stillness(beats, time.monotonic())
        if not seconds:
            return
        self._hangs = True
        hang = _looked_at(self._group, seconds, self._check)
        told = (hang.blamed or [0])[0]
        where = self._keep(hang)
        statuses[told].error = HangError(f"{hang.sentence}; {where} has the stacks of all")

    def look(self) -> Diagnosis:
        """What all ranks do now. Asked by another thread than the controller's."""
        group, check = self._group, self._check
        still = check.stillness(time.monotonic())
        if group is None or not still:
            return nobody_trains()
        return diagnosis_of(_looked_at(group, max(still.values()), check), still)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """What hangs does not leave by itself, and one that is stopped would be waited for."""
        self._group = None
        if self._hangs:
            for worker in worker_group.get_workers():
                _end(worker)


def _looked_at(group: Any, seconds: float, check: HangCheck) -> Hang:
    workers = group.get_workers()
    asked = {worker.actor.sight.remote(rank): rank for rank, worker in enumerate(workers)}
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
    heard = check.heard_within(max(_HEARD_LATELY_SECONDS, seconds / 2))
    if busy := [answer for answer in late if asked[answer] in heard]:
        answered += ray.wait(busy, num_returns=len(busy), timeout=_BUSY_ANSWER_SECONDS)[0]
    sights = {}
    for answer in answered:
        with contextlib.suppress(Exception):  # a process that has ended meanwhile does not answer either
            sights[asked[answer]] = ray.get(answer)
    places = {rank: Place(each.metadata.hostname, each.metadata.pid) for rank, each in enumerate(workers)}
    return Hang(seconds=seconds, beats=check.beats, places=places, sights=sights, heard=heard)


def _end(worker: Any) -> None:
    """Ray asks a process to end, which one that is stopped does not hear; on this node the kernel can be asked."""
    ray.kill(worker.actor)
    if worker.metadata.node_id == ray.get_runtime_context().get_node_id():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(worker.metadata.pid, signal.SIGKILL)
