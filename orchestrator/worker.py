"""What one worker process sets up around the loop: an attempt, its rank, its checkpoints, its data and its reports."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from orchestrator import checkpoint, events, loop, own_code
from orchestrator.checkpoint import Checkpoint, Checkpoints, Ranking
from orchestrator.control import Peers
from orchestrator.data import Prepared
from orchestrator.going_on import check_left_out, go_on_from, where_to_go_on
from orchestrator.planning.patience import Patience
from orchestrator.planning.plan import Plan
from orchestrator.rank import assemble
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import beating, heart
from orchestrator.recovery.hangs import PATIENCE
from orchestrator.recovery.notice import NoticeBoard
from orchestrator.surroundings import RankSurroundings
from orchestrator.telemetry.rank_log import kept_log
from orchestrator.telemetry.reporter import Teller, open_reporter
from orchestrator.telemetry.spikes import SpikeWatch

logger = logging.getLogger("orchestrator")


class Closing(Protocol):
    """What is opened once and closed once."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


Opened = TypeVar("Opened", bound=Closing)


@dataclass(frozen=True)
class Seat:
    """Of which rank, in which attempt, somebody watches the loop."""

    storage: str
    """Root of the run's files."""
    rank: int
    world_size: int
    attempt: int
    start_step: int
    """The step that the attempt goes on from."""


Watch = Callable[
    [Iterator[loop.Step], loop.Surroundings, Seat], tuple[Iterator[loop.Step], loop.Surroundings]
]
"""Stands between the loop and what is around it: gives back what the loop is given."""


def unwatched(
    steps: Iterator[loop.Step], around: loop.Surroundings, seat: Seat
) -> tuple[Iterator[loop.Step], loop.Surroundings]:
    """Nobody stands there."""
    return steps, around


def run(config: Mapping[str, Any], watch: Watch = unwatched) -> dict[str, Any]:
    """Train on this worker. Called by Ray Train on every worker of the group, once for each attempt.

    Args:
        config: ``plan`` and ``prepared`` as JSON text, ``launch``, and ``started_at`` (the driver's start, in seconds
            since the epoch).
        watch: who stands between the loop and its surroundings.

    Returns:
        The step reached, whether the run was stopped, the newest of each loss and metric (where no step was left to
        take, those of the checkpoint), and the attempt.

    """
    while True:
        try:
            return _attempt(config, watch)
        except _RewoundError:
            gc.collect()  # the model that was left is not held beside the next one


class _RewoundError(Exception):
    """The attempt has ended so that another one leaves a batch out."""


def _attempt(config: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    """From the newest checkpoint on. Raises _RewoundError, on every rank."""
    whole = Plan.model_validate_json(config["plan"])
    prepared = Prepared.model_validate_json(config["prepared"])
    peers, root = Peers(PATIENCE * whole.job.recovery.hang_timeout), f"{whole.storage}/checkpoints"
    plan = whole.with_workers(peers.world_size)
    attempt = peers.agree(lambda: checkpoint.next_attempt(root))
    heart.begins(attempt)
    with contextlib.ExitStack() as held:
        own_log = held.enter_context(kept_log(plan.storage, attempt, peers.rank))
        teller = Teller(attempt, own_log if peers.rank else None)
        teller.doing("building the model")
        newest = peers.agree(partial(where_to_go_on, plan, root, int(config["launch"])))
        there = peers.agree(lambda: checkpoint.committed(root))
        rank = held.enter_context(closing(assemble(plan)))
        checkpoints = Checkpoints(
            root, attempt=attempt, rank=peers.rank, world_size=peers.world_size, group=peers.group
        )
        held.enter_context(closing(checkpoints))
        events.emit("worker", rank=peers.rank, pid=os.getpid(), host=socket.gethostname(), attempt=attempt)
        code = own_code.code_of(plan.job.own_factories)
        left_out = sorted({*plan.job.recovery.leave_out, *peers.agree(RunRecord(plan.storage).left_out)})
        if newest is not None:
            teller.doing("reading the checkpoint")
        start_step, skipped = go_on_from(newest, rank, prepared, attempt, code)
        check_left_out(newest, left_out)
        if peers.rank == 0:
            RunRecord(plan.storage).keep_code(code)
        reporter = held.enter_context(
            open_reporter(
                whole,
                prepared,
                teller=teller,
                rank=peers.rank,
                attempt=attempt,
                launch=int(config["launch"]),
                start_step=start_step,
                started_at=float(config["started_at"]),
            )
        )
        teller.doing("reading the first batches")
        with closing(rank.open_train(prepared, start_step=start_step, skipped=skipped)) as stream, leaving():
            ranking = _ranking(plan, there)
            surroundings = RankSurroundings(
                rank,
                prepared,
                stream,
                checkpoints,
                ranking,
                peers,
                reporter,
                launch=int(config["launch"]),
                code_digest=code.digest,
                patience=Patience(plan.job.training.stop_early, newest.meta["stop_early"] if newest else {}),
                notices=NoticeBoard(plan.notice_file),
                left_out=left_out,
                spikes=SpikeWatch(
                    plan.job.recovery.on_spike,
                    rank.objective.phases,
                    rank.engine.device,
                    newest.meta["spikes"] if newest else {},
                ),
            )
            steps = beating(rank.on_device(stream), start_step)
            seat = Seat(plan.storage, rank.number, rank.world_size, attempt, start_step)
            watched, around = watch(steps, surroundings, seat)
            outcome = loop.train(plan, rank.engine, rank.objective, watched, around, start_step)
            if outcome.rewinds is not None:
                surroundings.leave_out(outcome.rewinds)
                raise _RewoundError
        surroundings.finish(outcome)
    return {
        "step": outcome.step,
        "stopped": outcome.stopped,
        "enough": outcome.enough,
        "metrics": {**(newest.meta["metrics"] if newest else {}), **outcome.metrics},
        "attempt": attempt,
    }


@contextlib.contextmanager
def closing(opened: Opened) -> Iterator[Opened]:
    """Closed at the end. An error on the way out never takes the place of the one that is why: a GPU that has failed
    answers everything from then on with errors.
    """
    try:
        yield opened
    except BaseException:
        try:
            opened.close()
        except Exception as second:
            logger.warning("and then, while ending: %s: %s", type(second).__name__, second)
        raise
    opened.close()


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """An attempt that an error ends waits on its way out, for the tracker say: that is no hang, which would hide the error."""
    try:
        yield
    except BaseException:
        heart.passes("the end, after an error", may_take_long=True)
        raise


def _ranking(plan: Plan, there: Iterable[Checkpoint]) -> Ranking:
    """The best so far, by what the job keeps checkpoints by."""
    keep = plan.job.checkpoint.keep
    return Ranking(best=keep.best, metric=keep.metric, mode=keep.mode, checkpoints=there)
