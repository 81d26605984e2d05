"""A head that will be taken away while its workers stay: all of its Ray cluster ends with it, at once and unsaved."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator import events
from orchestrator.retries import HOLD_SECONDS

_LOOK_SECONDS = 0.5


class HeadWatch(WorkerGroupCallback):
    """Has the group save and leave once its head has notice, and keeps the next one from starting there."""

    def __init__(self, has_notice: Callable[[], bool], hold_seconds: float = HOLD_SECONDS) -> None:
        """
        Args:
            has_notice: whether the head will be taken away; asked at each poll, so it must be quick.
            hold_seconds: how long no group starts from then on.

        """
        self._has_notice, self._hold_seconds = has_notice, hold_seconds
        self._group: Any = None
        self._heard_at: float | None = None

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self._group = worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """See WorkerGroupCallback."""
        if self._heard_at is None and self._group is not None and self._has_notice():
            self._heard_at = time.monotonic()
            for worker in self._group.get_workers():
                worker.actor.ask_to_leave.remote("the head will be taken away")

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """See WorkerGroupCallback."""
        if self._heard_at is None and self._has_notice():
            self._heard_at = time.monotonic()
        if self._heard_at is None or self._left(self._heard_at) <= 0:
            return
        events.emit(
            "waiting", message="the head will be taken away; what was saved goes on with the next one"
        )
        while self._left(self._heard_at) > 0:
            time.sleep(_LOOK_SECONDS)

    def _left(self, heard_at: float) -> float:
        return heard_at + self._hold_seconds - time.monotonic()

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self._group = None
