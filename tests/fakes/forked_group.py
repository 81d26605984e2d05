"""Groups of workers that are forks of this process, in Ray Train's place: what is real is the worker with its loop, data,
checkpoints, beats and gloo, the failure policy, the hang watch, and processes that end by SIGKILL or stand still by SIGSTOP.

A fresh process takes seconds to import torch; a fork takes none, so a suite can have thousands.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import WorkerGroupError

from orchestrator import events, hang_watch, worker
from orchestrator.chaos.witness import watch
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import heart, sight
from orchestrator.recovery.faulty_nodes import FaultyNodes
from orchestrator.recovery.hangs import PATIENCE, Hang, incident_text
from orchestrator.recovery.notice import listen_for_sigterm
from orchestrator.recovery.policy import RetryWhatCanHelp

_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 0.5
_PATIENCE_SECONDS = 240.0
_DIES_WITH_PARENT = 1


@dataclass
class Member:
    """One worker of a group, as its group's parent knows it."""

    pid: int
    asked: Connection
    """For beats and sights."""
    told: Connection
    """For the outcome."""
    is_asked: bool = False
    outcome: Any = None
    error: BaseException | None = None
    ended: bool = False

    def ask(self, what: str, seconds: float) -> Any:
        """Its beat or its sight; None where it does not answer. A late answer is taken for the next question's."""
        with contextlib.suppress(OSError, EOFError):
            if not self.is_asked:
                self.asked.send(what)
            self.is_asked = not self.asked.poll(seconds)
            return None if self.is_asked else self.asked.recv()
        return None


class ForkedGroup:
    """Ranks of one attempt. Behaves as Ray Train's worker group to the hang watch."""

    def __init__(self, plan: Plan, config: Mapping[str, Any], folder: Path) -> None:
        rendezvous = tempfile.mktemp(dir=folder)
        self.members = [self._forked(plan, config, rank, rendezvous) for rank in range(plan.world_size)]

    @staticmethod
    def _forked(plan: Plan, config: Mapping[str, Any], rank: int, rendezvous: str) -> Member:
        (asked, answers), (told, tells) = Pipe(), Pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            answers.close()
            tells.close()
            return Member(pid, asked, told)
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if plan.job.recovery.on_notice == "save":
                listen_for_sigterm()
            threading.Thread(target=_answer, args=(answers, rank), daemon=True).start()
            dist.init_process_group(
                "gloo",
                init_method=f"file://{rendezvous}",
                rank=rank,
                world_size=plan.world_size,
                timeout=timedelta(seconds=PATIENCE * plan.job.recovery.hang_timeout),
            )
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                outcome = worker.run(config, watch)
            tells.send(("done", outcome))
        except BaseException as error:
            _tell_error(tells, error)
        os._exit(0)

    def get_workers(self) -> list[Any]:
        """As Ray Train's group says it."""
        return [
            SimpleNamespace(
                actor=SimpleNamespace(
                    member=member, sight=SimpleNamespace(remote=lambda rank, member=member: _Asked(member))
                ),
                metadata=SimpleNamespace(hostname=socket.gethostname(), pid=member.pid, node_id="here"),
            )
            for member in self.members
        ]

    def statuses(self) -> Any:
        """Of one look, as Ray Train's controller has them."""
        for member in self.members:
            if not member.ended and member.told.poll():
                with contextlib.suppress(EOFError, OSError):
                    kind, what = member.told.recv()
                    member.ended = True
                    member.outcome, member.error = (what, None) if kind == "done" else (None, what)
            if not member.ended and os.waitpid(member.pid, os.WNOHANG)[0]:
                member.ended, member.error = True, ActorDiedError()
                member.pid = 0
        return SimpleNamespace(
            worker_statuses={
                rank: SimpleNamespace(
                    error=member.error,
                    running=not member.ended,
                    beat=None if member.ended else member.ask("beat", _ANSWER_SECONDS),
                )
                for rank, member in enumerate(self.members)
            }
        )

    def end(self) -> None:
        """End all that is left, and wait until it is gone."""
        for member in self.members:
            if member.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
                os.waitpid(member.pid, 0)
            member.asked.close()
            member.told.close()


@dataclass
class _Asked:
    """A sight that is asked for."""

    member: Member
    seen: Any = field(default=None)

    def __hash__(self) -> int:
        return id(self)


class _NoRay:
    """What the hang watch asks of Ray."""

    def wait(
        self, asked: list[_Asked], num_returns: int, timeout: float
    ) -> tuple[list[_Asked], list[_Asked]]:
        deadline = time.monotonic() + timeout
        while (silent := [one for one in asked if one.seen is None]) and time.monotonic() < deadline:
            for one in silent:  # all are asked before any is waited for
                answer = one.member.ask("sight", 0.0)
                one.seen = answer if hasattr(answer, "stacks") else None  # else it is a beat that was late
            wait([one.member.asked for one in silent], _ANSWER_SECONDS)
        return [one for one in asked if one.seen is not None], [one for one in asked if one.seen is None]

    def get(self, one: _Asked) -> Any:
        return one.seen

    def kill(self, actor: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(actor.member.pid, signal.SIGKILL)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "elsewhere")


hang_watch.ray = _NoRay()  # type: ignore[attr-defined]


def _answer(questions: Connection, rank: int) -> None:
    """On a thread of a rank."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            questions.send(heart.beat if questions.recv() == "beat" else sight(rank))


def _tell_error(tells: Connection, error: BaseException) -> None:
    try:
        tells.send(("error", error))
    except Exception:
        tells.send(("error", RuntimeError(f"{type(error).__name__}: {error}")))


class ForkedCluster:
    """Trains plans on forked groups, again as the failure policy says."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        self._folder = folder

    def train(
        self,
        plan_of: Callable[[int], Plan],
        prepared: str,
        look: Callable[[], None],
        tell: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        """Train to the end; the outcome of rank 0.

        Args:
            plan_of: the plan of an attempt, from 1 on.
            prepared: the data, as JSON.
            look: called at each poll.
            tell: hears of hangs and incidents.

        Raises:
            WorkerGroupError: the policy does not try again.
        """
        first = plan_of(1)
        policy = RetryWhatCanHelp(first.job.recovery.max_failures, FaultyNodes(None))
        record = RunRecord(first.storage)

        def keep(hang: Hang) -> str:
            tell({"event": "hang", "time": time.time(), "blamed": [{"rank": rank} for rank in hang.blamed]})
            return record.keep_incident(hang.attempt, incident_text(hang))

        watching = hang_watch.HangWatch(first.job.recovery.hang_timeout, keep)
        for attempt in range(1, 100):
            plan = plan_of(attempt)
            failures, outcome = self._attempt(plan, prepared, watching, look)
            if not failures:
                return outcome
            with contextlib.redirect_stdout(_Heard(tell)):
                decision = policy.make_decision(WorkerGroupError("", failures))
            if decision is FailureDecision.RAISE:
                raise WorkerGroupError(str(failures), failures)
        raise AssertionError("a hundred attempts")

    def _attempt(
        self, plan: Plan, prepared: str, watching: hang_watch.HangWatch, look: Callable[[], None]
    ) -> tuple[dict[int, BaseException], Any]:
        config = {
            "plan": plan.model_dump_json(),
            "prepared": prepared,
            "launch": 1,
            "started_at": time.time(),
        }
        group = ForkedGroup(plan, config, self._folder)
        watching.after_worker_group_training_start(group)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            while True:
                look()
                status = group.statuses()
                watching.after_worker_group_poll_status(status)
                found = {rank: one.error for rank, one in status.worker_statuses.items() if one.error}
                if found:
                    watching.before_worker_group_shutdown(group)
                    return found, None
                if all(member.ended for member in group.members):
                    return {}, group.members[0].outcome
                assert time.monotonic() < deadline, f"{plan.storage} does not come to its end"
                wait([member.told for member in group.members if not member.ended], _POLL_SECONDS)
        finally:
            group.end()


class _Heard:
    """Output whose events are heard."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> None:
        if event := events.parse(text):
            self._tell(event)

    def flush(self) -> None:
        pass


def told_by_rank_0(storage: str) -> list[dict[str, Any]]:
    """The events in its own logs, over all attempts."""
    found = []
    for path in Path(storage).glob("logs/attempt-*/rank-0.log"):
        found += [
            event for line in path.read_text(errors="replace").splitlines() if (event := events.parse(line))
        ]
    return found


def written(path: Path, content: Any) -> None:
    """JSON, for whoever looks later."""
    path.write_text(json.dumps(content, indent=2))
