"""Ray brings what workers print to the driver some time later, and on a busy machine that is seconds: before it leaves Ray, a
driver waits for the last line of each worker that could write one.

Seam: ``ray._private.ray_logging``; covered by a test that holds Ray's log monitor up, the Ray minor is held.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator import events

logger = logging.getLogger("orchestrator")

_EVENT, _NAME = "left", "trainwright-last-words"

Place = tuple[str, str]
"""A process: its node's address, and its number there, which Ray's log monitor has as text."""


@contextmanager
def last_word() -> Iterator[None]:
    """In a worker's process: however its work ends, a line says that it has."""
    try:
        yield
    finally:
        events.emit(_EVENT)


class LastWords(WorkerGroupCallback):
    """Of the newest group of workers."""

    def __init__(self, seconds: float) -> None:
        """
        Args:
            seconds: for how long they are waited for at most.

        """
        self._seconds = seconds
        self._of_rank: dict[int, Place] = {}
        self._heard = set[Place]()
        self._news = threading.Condition()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self._of_rank = {
            worker.distributed_context.world_rank: (worker.metadata.node_ip, str(worker.metadata.pid))
            for worker in worker_group.get_workers()
        }

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """At its end what the workers have printed in it has come: all of it, or of a group that failed what those have printed
        whose own work ended with an error; the others were ended as they were.
        """
        global_worker_stdstream_dispatcher.add_handler(_NAME, self.take)
        try:
            yield
            self._wait(lambda rank: True)
        except Exception as error:
            failures: Mapping[int, Any] = getattr(error, "worker_failures", {})
            self._wait(lambda rank: hasattr(failures.get(rank), "_base_exc"))
            raise
        finally:
            global_worker_stdstream_dispatcher.remove_handler(_NAME)

    def take(self, batch: Mapping[str, Any]) -> None:
        """Lines of one process, on Ray's thread, after they have been printed."""
        if any((event := events.parse(line)) and event["event"] == _EVENT for line in batch["lines"]):
            with self._news:
                self._heard.add((batch["ip"], str(batch["pid"])))
                self._news.notify_all()

    def _wait(self, has_spoken: Callable[[int], bool]) -> None:
        awaited = {place: rank for rank, place in self._of_rank.items() if has_spoken(rank)}
        with self._news:
            self._news.wait_for(lambda: awaited.keys() <= self._heard, self._seconds)
            missing = sorted(rank for place, rank in awaited.items() if place not in self._heard)
        if missing:
            logger.warning(
                "Ray has not brought the last lines of workers %s within %g s; logs --rank has them",
                ", ".join(map(str, missing)),
                self._seconds,
            )
