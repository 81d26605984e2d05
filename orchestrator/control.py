"""A rank's exchange with its run: what ranks agree on, whether a stop is asked for, how far the run has come."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from orchestrator.errors import CheckpointError, TrainwrightError
from orchestrator.records import RunRecord
from orchestrator.runs import Best
from orchestrator.storage import is_uri

Answer = TypeVar("Answer")

_LAST_WORD_SECONDS = 10.0
_MOST_STEPS_UNTIL_CHECK = 1000


class Peers:
    """All ranks of an attempt, joined by gloo apart from training's own collectives. One rank without torch.distributed."""

    def __init__(self, hang_timeout: float | None = None) -> None:
        """Collective.

        Args:
            hang_timeout: seconds after which a rank that does not answer is an error; None for torch's own.

        """
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.group = _gloo_group(hang_timeout) if self.world_size > 1 else None

    def agree(self, ask: Callable[[], Answer]) -> Answer:
        """Rank 0's answer, on every rank. Collective.

        Raises:
            TrainwrightError: what rank 0 raised; on every rank, so that none waits for one that has gone.
            CheckpointError: rank 0 could not read or write.

        """
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = ask()
            except TrainwrightError as error:
                answer[1] = error
            except OSError as error:
                answer[1] = CheckpointError(str(error))
        if self.group is not None:
            dist.broadcast_object_list(answer, src=0, group=self.group)
        if answer[1] is not None:
            raise answer[1]
        result: Answer = answer[0]
        return result

    def union(self, numbers: Iterable[int]) -> list[int]:
        """The numbers of all ranks, each once, in order. Collective."""
        return sorted({number for of_rank in self.of_all(list(numbers)) for number in of_rank})

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Of each of the numbers the largest on any rank. Collective."""
        tensor = torch.tensor(numbers, dtype=torch.int64)
        if self.group is not None:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return [int(number) for number in tensor.tolist()]

    def of_all(self, own: Answer) -> list[Answer]:
        """What each rank brings, by rank. Collective."""
        of_ranks = [own] * self.world_size
        if self.group is not None:
            dist.all_gather_object(of_ranks, own, group=self.group)
        return of_ranks


def _gloo_group(hang_timeout: float | None) -> dist.ProcessGroup:
    # torch takes the backend's own default here, half an hour, not that of the group that is there already
    timeout = None if hang_timeout is None else timedelta(seconds=hang_timeout)
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout)
    return group


class StopCheck:
    """Whether the loop should end early. Ranks agree about twice a second, at a step that rank 0 names: on the host, by
    gloo, so no device waits for it.
    """

    def __init__(
        self, peers: Peers, is_asked: Callable[[], bool], is_noticed: Callable[[], bool] = lambda: False
    ) -> None:
        """
        Args:
            peers: the ranks that agree.
            is_asked: whether somebody asked for a stop; called on rank 0 alone.
            is_noticed: whether this rank has notice that it will be taken away; called on every rank.

        """
        self._peers, self._is_asked, self._is_noticed = peers, is_asked, is_noticed
        self.leaves = False
        """Whether the loop ends because a rank has notice; a stop that is asked for as well comes first."""
        self._next_step = 0
        self._last: tuple[int, float] | None = None

    def requested(self, step: int) -> bool:
        """The same answer on every rank after the same step. Collective."""
        if step < self._next_step:
            return False
        stop = next_step = 0
        if self._peers.rank == 0:
            stop, next_step = int(self._is_asked()), step + self._steps_until_next(step)
        stop, noticed, self._next_step = self._peers.largest((stop, int(self._is_noticed()), next_step))
        self.leaves = bool(noticed and not stop)
        return bool(stop or noticed)

    def _steps_until_next(self, step: int) -> int:
        """By the pace since the look before. At the first one none is known, whichever step the run goes on from; and never more
        than twice as many steps as since then, since a device that is behind its host makes the first steps seem short.
        """
        now, last = time.monotonic(), self._last
        self._last = step, now
        if last is None:
            return 1
        steps = step - last[0]
        return min(2 * steps, steps_until_check((now - last[1]) / steps))


def steps_until_check(seconds_per_step: float) -> int:
    """Steps that take about half a second, from 1 to 1000: asking at each would cost short steps a collective."""
    return max(1, min(_MOST_STEPS_UNTIL_CHECK, int(0.5 / max(seconds_per_step, 1e-6))))


class Mailbox:
    """Rank 0's small exchange with the run's storage, from a thread: has a stop been asked for, how far have we come."""

    def __init__(self, storage: str, launch: int, is_superseded: Callable[[], bool] = lambda: False) -> None:
        """
        Args:
            storage: root of the run's files.
            launch: whose record it is.
            is_superseded: whether a later attempt has begun: from then on nothing is written.

        """
        self._record, self._is_superseded = RunRecord(storage), is_superseded
        self._launch = launch
        self._status = self._record.status(launch)
        self._stop, self._closed = threading.Event(), threading.Event()
        self._pause = 5.0 if is_uri(storage) else 0.5
        self.reached_before = self._record.reached()
        """Last step that an earlier attempt logged."""
        self._reached = self._written = 0
        self._urls: dict[str, str] = {}
        self._told = self._status
        self._thread = threading.Thread(target=self._work, name="mailbox", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closed.wait(self._pause)
            with contextlib.suppress(OSError):  # storage that fails for a moment is asked again
                self._exchange()

    def _exchange(self) -> None:
        if self._record.stop_was_asked(self._launch):
            self._stop.set()
        told = self._status and self._status.with_urls(self._urls)
        is_further, has_news = self._reached > self._written, told is not None and told != self._told
        if not (is_further or has_news) or self._is_superseded():
            return
        if is_further:
            self._written = self._reached
            self._record.set_reached(self._written)
        if told is not None and has_news:
            self._record.set_state(told)
            self._told = told

    def tracked_at(self, url: str) -> None:
        """Note where the run's metrics are shown. Told by the tracker's thread, so it is kept apart from the status."""
        self._urls = {"mlflow": url}

    def reached(self, step: int, attempt: int, metrics: Mapping[str, float]) -> None:
        """Note the last step that was logged: whoever lists runs reads it from the record."""
        self._reached = max(step, self.reached_before)
        if self._status is not None:
            self._status = self._status.reached(step, attempt, metrics)

    def saved(self, best: Best | None) -> None:
        """Note the best checkpoint so far."""
        if self._status is not None:
            self._status = self._status.with_best(best)

    def stop_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    def close(self) -> None:
        """Look and tell once more, then stop."""
        self._closed.set()
        self._thread.join(timeout=_LAST_WORD_SECONDS)
