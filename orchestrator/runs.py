"""A submitted plan and how it stands: states, why it ended, and the record that clusters return."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator

from orchestrator.section import AnyFloat, Section


class RunState(StrEnum):
    """How a run stands. The last three are final and are never overwritten."""

    PENDING = "pending"
    """Submitted; waiting for the cluster."""
    STARTING = "starting"
    """The driver lives; workers are starting."""
    RUNNING = "running"
    """Steps are being taken."""
    STOPPING = "stopping"
    """Asked to stop; finishing the step and saving."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


class EndReason(StrEnum):
    """Why a run ended."""

    COMPLETED = "completed"
    STOPPED_BY_USER = "stopped_by_user"
    BAD_SPEC = "bad_spec"
    BAD_DATA = "bad_data"
    USER_ERROR = "user_error"
    NAN_LOSS = "nan_loss"
    OUT_OF_MEMORY = "out_of_memory"
    NO_RESOURCES = "no_resources"
    WORKER_LOST = "worker_lost"
    DRIVER_LOST = "driver_lost"
    STORAGE_FAILED = "storage_failed"
    DEADLINE = "deadline"
    INFRASTRUCTURE = "infrastructure"

    @property
    def exit_code(self) -> int:
        """What ``run`` and ``status --wait`` exit with."""
        return _EXIT_CODES.get(self, 4)

    @classmethod
    def of_exit_code(cls, code: int | None) -> EndReason:
        """Why a launch ended, where nothing is known but how its driver's process exited.

        Any code but the driver's own means that it could not speak for itself any more.
        """
        return _REASONS_OF_EXIT_CODES.get(code, cls.DRIVER_LOST)


_EXIT_CODES = {
    EndReason.COMPLETED: 0,
    EndReason.BAD_SPEC: 2,
    EndReason.BAD_DATA: 3,
    EndReason.USER_ERROR: 3,
    EndReason.NAN_LOSS: 3,
    EndReason.STOPPED_BY_USER: 5,
}
_REASONS_OF_EXIT_CODES: dict[int | None, EndReason] = {
    2: EndReason.BAD_SPEC,
    3: EndReason.USER_ERROR,
    4: EndReason.INFRASTRUCTURE,
    5: EndReason.STOPPED_BY_USER,
}


class Best(Section):
    """The best of a run's checkpoints."""

    step: int
    """Its step."""
    metric: str
    """What it is the best by: ``checkpoint.keep.metric``."""
    value: AnyFloat
    """The metric's value."""


class Group(Section):
    """The workers that train, where their number may change."""

    workers: int
    """How many there are."""
    most: int
    """How many there may be."""
    since: float
    """Since when, in seconds since the epoch."""
    because: str
    """Why there are so many."""

    def described(self, now: float) -> str:
        """``6 of 8 workers, since 4 min, because ...``."""
        minutes = max(0.0, now - self.since) / 60
        ago = (
            f"{minutes * 60:.0f} s"
            if minutes < 1
            else f"{minutes:.0f} min"
            if minutes < 120
            else f"{minutes / 60:.0f} h"
        )
        return f"{self.workers} of {self.most} workers, since {ago}, because {self.because}"


class Spares(Section):
    """Room for spare workers, ``recovery.spare_workers``."""

    held: int
    """For how many it is held."""
    of: int
    """For how many it is to be."""


Began = tuple[str, float]
"""A part of a launch's time, as the ledger names it, and from when on, in seconds since the epoch."""


class RunStatus(Section):
    """How a run stands at one moment, as every cluster reports it. Each method returns another status."""

    run_id: str
    """The run."""
    state: RunState
    """How it stands."""
    reason: EndReason | None = None
    """Why it ended, once it has."""
    message: str = ""
    """One sentence for a person."""
    cluster: str = ""
    """Name of the profile it runs on."""
    name: str = ""
    """The job's name."""
    launch: int = 1
    """1 for the submission, one more for each ``resume``."""
    attempt: int = 0
    """Worker-group starts so far, over all launches."""
    submitted_at: float = 0.0
    """Seconds since the epoch."""
    ended_at: float | None = None
    """Seconds since the epoch, once it has ended."""
    step: int = 0
    """Last step that was logged."""
    total_steps: int = 0
    """Steps that the plan has."""
    metrics: dict[str, AnyFloat] = {}
    """Last logged values by name; in JSON those that are no finite numbers are text: ``"NaN"``, ``"Infinity"``."""
    best: Best | None = None
    """The best checkpoint, as far as the job ranks them."""
    effective: float | None = None
    """Effective training time: the share of the time of its launches that steps took that counted; None before the
    driver has told.
    """
    nodes_left_out: tuple[str, ...] = ()
    """Nodes on which no worker is started any more, since their hardware failed ``recovery.exclude_nodes_after`` times."""
    group: Group | None = None
    """The workers that train, where their number may change; None before the first start and where it is fixed."""
    spares: Spares | None = None
    """Room for spare workers, as a cluster's driver told last; None where none is asked for."""
    urls: dict[str, str] = {}
    """Where to look: ``mlflow``, ``dashboard``, ``checkpoints``."""
    before: RunStatus | None = None
    """The launch before this one, where that ended without a driver as far as whoever sent this one could see: nothing else is left
    of it then, and it names the one before likewise. Of one that had a driver after all the run's record knows more.
    """
    waited: tuple[Began, ...] = ()
    """What a launch without a driver waits for, or waited for until it ended, each part up to the next one's moment, as far as its
    cluster can tell; of one that has had a driver the ledger tells.
    """

    def at(self, state: RunState) -> RunStatus:
        """In another state that is no end; ``ended`` says how it ends."""
        assert not self.state.is_final and not state.is_final
        return self._with(state=state)

    def behind(self, before: RunStatus | None) -> RunStatus:
        """Behind a launch that ended without a driver; None where the one before had one."""
        return self._with(before=before)

    def launches_before(self) -> list[RunStatus]:
        """Those right before this one that ended without a driver, oldest first."""
        return [*self.before.launches_before(), self.before] if self.before else []

    def having_waited(self, parts: Iterable[Began]) -> RunStatus:
        """With what it waits for without a driver."""
        return self._with(waited=tuple(parts))

    def saying(self, message: str) -> RunStatus:
        """With another sentence for a person."""
        return self._with(message=message)

    def on(self, cluster: str) -> RunStatus:
        """As the profile of this name reports it."""
        return self._with(cluster=cluster)

    def with_urls(self, urls: Mapping[str, str]) -> RunStatus:
        """With these addresses beside, or in place of, those it has."""
        return self._with(urls={**self.urls, **urls})

    def with_best(self, best: Best | None) -> RunStatus:
        """With another best checkpoint; None leaves the one that it has."""
        return self._with(best=best or self.best)

    def with_effective(self, share: float) -> RunStatus:
        """With another effective training time."""
        return self._with(effective=round(share, 4))

    def without_nodes(self, nodes: Iterable[str]) -> RunStatus:
        """With these nodes left out, beside those that are."""
        return self._with(nodes_left_out=tuple(dict.fromkeys((*self.nodes_left_out, *nodes))))

    def with_group(self, group: Group) -> RunStatus:
        """With another group of workers."""
        return self._with(group=group)

    def with_spares(self, spares: Spares) -> RunStatus:
        """With so many spare workers."""
        return self._with(spares=spares)

    def in_attempt(self, attempt: int, total_steps: int) -> RunStatus:
        """After another start of the workers."""
        return self._with(attempt=attempt, total_steps=total_steps)

    def reached(self, step: int, attempt: int, metrics: Mapping[str, float]) -> RunStatus:
        """After a step that was logged: it runs, unless it is being stopped or has ended.

        Args:
            step: Also where an earlier attempt came further.
            attempt: The attempt that took it.
            metrics: Put over the last ones by name.
        """
        status = self._with(step=step, attempt=attempt, metrics={**self.metrics, **metrics})
        if self.state in (RunState.PENDING, RunState.STARTING):
            return status._with(state=RunState.RUNNING, message="")  # it waits for nothing any more
        return status

    def ended(
        self,
        state: RunState,
        reason: EndReason,
        message: str,
        *,
        ended_at: float | None,
        metrics: Mapping[str, float] | None = None,
    ) -> RunStatus:
        """Its end.

        Args:
            ended_at: Seconds since the epoch; None where nobody knows.
            metrics: Put over the last ones by name, as in ``reached``.
        """
        assert state.is_final
        return self._with(
            state=state,
            reason=reason,
            message=message,
            ended_at=ended_at,
            metrics={**self.metrics, **(metrics or {})},
        )

    def after(self, earlier: RunStatus) -> RunStatus:
        """With what was told of the launch before and is not told again: addresses, attempt, last step, metrics, the best,
        nodes that are left out.
        """
        return self._with(
            urls={**earlier.urls, **self.urls},
            attempt=max(earlier.attempt, self.attempt),
            step=self.step or earlier.step,
            metrics={**earlier.metrics, **self.metrics},
            best=self.best or earlier.best,
            effective=earlier.effective if self.effective is None else self.effective,
            nodes_left_out=self.nodes_left_out or earlier.nodes_left_out,
            group=self.group or earlier.group,
        )

    def with_record(self, record: RunStatus) -> RunStatus:
        """What the cluster says of a launch, with what the launch's own record says.

        A recorded end holds, whatever the cluster says: it was written once, by whoever ended the run. Without one,
        an end that the cluster saw is an end: the driver could not write any more. In between, the cluster knows
        whether the driver lives, and the driver how far it is.
        """
        merged = self._with(
            attempt=record.attempt,
            step=record.step,
            metrics=dict(record.metrics),
            best=record.best,
            effective=record.effective,
            nodes_left_out=record.nodes_left_out or self.nodes_left_out,
            group=record.group or self.group,
            urls={**self.urls, **record.urls},
            waited=record.waited,
        )
        if record.state.is_final:
            return merged._with(
                state=record.state, reason=record.reason, message=record.message, ended_at=record.ended_at
            )
        if self.state is RunState.STARTING:
            return merged._with(state=record.state, message=record.message)
        return merged

    def _with(self, **fields: Any) -> RunStatus:
        return self.model_copy(update=fields)


_RUN_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def run_id_problem(text: str) -> str:
    """What is wrong with a run's id, in one sentence; empty where it is one. It names files, Ray jobs and Kubernetes
    objects, so what could mean anything else in one of them is none.
    """
    if _RUN_ID.fullmatch(text):
        return ""
    return (
        f"{text[:80]!r} is no run id: it has 1 to 63 lower-case letters, digits and hyphens, and begins and ends with a"
        " letter or a digit"
    )


def _checked(text: str) -> str:
    if problem := run_id_problem(text):
        raise ValueError(problem)
    return text


RunId = Annotated[str, AfterValidator(_checked)]
"""A run's id, as a field."""


def new_run_id(name: str) -> str:
    """A fresh id: the job's name and eight random characters; safe as a file, Ray and Kubernetes name."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return f"{name}-{''.join(secrets.choice(alphabet) for _ in range(8))}"
