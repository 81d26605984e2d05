"""The same from Python as from the command line: plan, submit, and a Run to hold on to."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orchestrator
from orchestrator import events, own_code, progress
from orchestrator.clusters import open_cluster
from orchestrator.clusters.shared.packages import problem_with
from orchestrator.clusters.shared.run_records import is_reachable_from_here
from orchestrator.clusters.shared.submitted import recall, remember
from orchestrator.clusters.shared.uploads.send import Uploaded, list_source, place_for, send
from orchestrator.errors import (
    CheckpointError,
    InfrastructureError,
    NotFoundError,
    SpecError,
    StoppedError,
    TrainwrightError,
)
from orchestrator.fitting import auto, changes
from orchestrator.fitting.ask import simulator
from orchestrator.gpus import smallest_gpu
from orchestrator.ledger import Ledger, ledger_of
from orchestrator.models.configs import check_same_function, default_objective, filled_in, with_architecture
from orchestrator.models.sizes import UNCOUNTED, Counts
from orchestrator.narration import narrated
from orchestrator.planning.devices import Device, ThisMachine, device_of
from orchestrator.planning.fit import check_own_averages
from orchestrator.planning.make_plan import make_plan as decide
from orchestrator.planning.plan import DataFacts, Plan, ResolvedJob, RunContext
from orchestrator.planning.resolve import resolve
from orchestrator.planning.revise import revise
from orchestrator.planning.schedule import check_schedule
from orchestrator.planning.shard_group import with_shard_group
from orchestrator.planning.sizes import over_shares
from orchestrator.planning.verdict import Verdict
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus, new_run_id, run_id_problem
from orchestrator.spec.addresses import store_problem, without_password
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import home, load_profile, load_spec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import absolute, is_uri, store_at
from orchestrator.stored_run import CheckpointRun, StoredRun

if TYPE_CHECKING:
    from orchestrator.clusters.base import Cluster
    from orchestrator.housekeeping import Pruning, Usage
    from orchestrator.recovery.diagnosis import Diagnosis

_WAIT_SECONDS = 0.5
_NO_TORCH = "takes torch, which is not installed here (pip install 'trainwright[train]')"
_NOT_COUNTED = "parameters, memory and compute of the model are counted where the run begins"


def make_plan(
    job: JobSpec | str | os.PathLike[str],
    cluster: str | ClusterProfile = "local",
    *,
    base_dir: str | os.PathLike[str] | None = None,
    run_id: str | None = None,
    overrides: Iterable[str] = (),
) -> Plan:
    """Everything that will happen, decided; nothing is started.

    Args:
        job: a job, or the path of a job file.
        cluster: name or file of a profile, or a profile.
        base_dir: folder that the job's relative paths start from. Default: the job file's, else the current one.
        run_id: the run's id. Default: a fresh one.
        overrides: ``field.path=value`` texts, put on top of a job file.

    Raises:
        SpecError: the job can't be trained as written, or the run can't be called so, or its packages can't be installed
            here, where it runs here and pip can ask an index.
        DataError: the data can't be read or is not what the job says.

    """
    if run_id is not None and (problem := run_id_problem(run_id)):
        raise SpecError(problem)
    if not isinstance(job, JobSpec):
        base_dir = base_dir or Path(job).resolve().parent
        job = load_spec(job, overrides)
    profile = _profile(cluster)
    folder = str(Path(base_dir or ".").resolve())
    _refuse_missing_working_dir(job, folder)

    weights = absolute(job.initialize.weights, folder) if job.initialize.weights else None
    model = with_architecture(filled_in(job.model, weights), folder)
    job, own_notes = _with_own_code(job.model_copy(update={"model": model}), folder)

    from orchestrator import data

    cache = f"{profile.storage}/cache" if profile.storage else str(home() / "cache")
    facts = data.inspect(job, folder, _cache_for_plans(profile))
    resolved = with_shard_group(resolve(job, facts), profile)
    if weights is not None:
        start = job.initialize
        check_same_function(resolved.model, weights, strict=start.strict, grows=start.grow_vocabulary)
    run_id = new_run_id(job.name) if run_id is None else run_id
    context = RunContext(
        version=orchestrator.__version__,
        run_id=run_id,
        base_dir=folder,
        storage=f"{profile.storage}/runs/{run_id}" if profile.storage else str(home() / "runs" / run_id),
        cache=cache,
        tracking_uri=_tracking_uri(job, profile),
        git_commit=_git_commit(folder),
        user=_user(),
        cluster=profile.name,
        notice_file=profile.notice_file or "",
    )
    resolved, counts, trial_notes = _tried(resolved, may_wait=profile.kind != "local")
    facts = facts.model_copy(update={"notes": (*facts.notes, *own_notes, *trial_notes)})
    made = decide(resolved, facts, counts, context)
    check_schedule(resolved.training.schedule, made.total_steps)
    _refuse_chance(resolved)
    if job.strategy.kind == "auto":
        made = _with_strategy(made, profile, lambda changed: decide(changed, facts, counts, context))
    if profile.kind == "local" and (unresolved := problem_with(job.environment.pip)):
        raise SpecError(unresolved)
    return made


def _cache_for_plans(profile: ClusterProfile) -> str:
    """Where what is prepared for a plan is kept: with the runs where that is a folder of this machine, else in the home. A
    bucket may be out of reach from here, and a claim always is.
    """
    if profile.storage and is_reachable_from_here(profile.storage) and not is_uri(profile.storage):
        return f"{profile.storage}/cache"
    return str(home() / "cache")


def _refuse_chance(job: ResolvedJob) -> None:
    """Raises SpecError where the same bits are asked for each time and a GPU can't give them."""
    if not (job.training.deterministic and job.scaling.gpus_per_worker):
        return
    from orchestrator.models.determinism import first_without

    if operation := first_without(job.model, job.objective):
        raise SpecError(
            f"training.deterministic: the model uses {operation}, of which torch has no deterministic algorithm on a GPU;"
            " use another operation, or write deterministic: false"
        )


def judge(plan: Plan, cluster: str | ClusterProfile = "local") -> Verdict | None:
    """Whether a plan's workers fit their devices, and what would: one takes steps on tensors without memory. Seconds.

    Args:
        plan: the plan.
        cluster: as for ``make_plan``.

    Returns:
        None where it is not known how much memory a device has.

    Raises:
        SpecError: the strategy can't do what the job asks, or a model of a person's own can't be built without memory.
        InfrastructureError: it could not be found out; a model of a person's own goes by the values of tensors, say.

    """
    device = device_of(plan.job.scaling, _profile(cluster), _this_machine)
    if device is None:
        return None
    if not plan.parameters:
        raise InfrastructureError(f"whether a worker fits its device {_NO_TORCH}")
    counts = _tried(plan.job)[1]
    facts = DataFacts(train_samples=plan.train_samples or None, eval_samples=plan.eval_samples)
    with simulator(home() / "cache" / "peaks") as ask:
        return changes.judge(plan, device, ask, lambda job: decide(job, facts, counts, plan.context))


def _with_strategy(plan: Plan, profile: ClusterProfile, remake: changes.Remake) -> Plan:
    """The plan with the strategy that ``auto`` stands for."""
    device = device_of(plan.job.scaling, profile, _this_machine)
    if device is None:
        raise SpecError(
            f"strategy: auto needs the memory of a device, which profile {profile.name} does not tell; give its node group"
            " accelerator_type or accelerator_memory, or scaling.accelerator_type, or write the strategy"
        )
    if not plan.parameters:
        raise SpecError(f"strategy: auto {_NO_TORCH}; write the strategy, or install it")
    with simulator(home() / "cache" / "peaks") as ask:
        return auto.decide(plan, device, ask, remake)


def _this_machine() -> ThisMachine:
    import psutil

    name, memory = smallest_gpu() or ("", 0)
    gpu = Device(name=name, memory=memory) if memory else None
    return ThisMachine(memory=psutil.virtual_memory().total, gpu=gpu)


def _refuse_missing_working_dir(job: JobSpec, base_dir: str) -> None:
    if (given := job.environment.working_dir) and not Path(base_dir, given).is_dir():
        raise SpecError(f"environment.working_dir: {Path(base_dir, given)} is no folder")


def submit(
    job: JobSpec | Plan | str | os.PathLike[str],
    cluster: str | ClusterProfile = "local",
    *,
    base_dir: str | os.PathLike[str] | None = None,
    run_id: str | None = None,
    overrides: Iterable[str] = (),
) -> Run:
    """Start a run and return at once. Arguments as for ``make_plan``; a plan is submitted as it is."""
    profile = _profile(cluster)
    plan = (
        job
        if isinstance(job, Plan)
        else make_plan(job, profile, base_dir=base_dir, run_id=run_id, overrides=overrides)
    )
    backend = open_cluster(profile)
    backend.submit(backend.render(plan))
    if isinstance(cluster, str):
        remember(plan.run_id, cluster)
    return Run(plan.run_id, backend)


def attach(run_id: str, cluster: str | ClusterProfile | None = None) -> Run:
    """A run that was submitted before. Raises NotFoundError.

    Args:
        run_id: the run.
        cluster: as for ``make_plan``. Default: where it was submitted to from this machine, else ``local``.

    """
    if problem := run_id_problem(run_id):
        raise NotFoundError(f"no run can be called so: {problem}")
    cluster = cluster or recall(run_id)
    backend = open_cluster(_profile(cluster))
    backend.status(run_id)
    return Run(run_id, backend)


def stored(name: str, cluster: str | ClusterProfile | None = None) -> StoredRun:
    """What can predict, evaluate and be exported: a run, or one of its checkpoints.

    Args:
        name: a run's id, a checkpoint's folder, or a registered model: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` in the
            cluster's MLflow.
        cluster: as for ``attach``.

    Raises:
        NotFoundError: there is none.
        InfrastructureError: MLflow does not answer.
    """
    if name.startswith("models:/"):
        from orchestrator.telemetry.registered import checkpoint_of

        return CheckpointRun(checkpoint_of(tracking_uri_of(_profile(cluster or "local")), name))
    if "/" in name:
        return CheckpointRun(absolute(name, str(Path.cwd())))
    return attach(name, cluster)


def list_runs(cluster: str | ClusterProfile = "local") -> list[RunStatus]:
    """All runs that the cluster still knows, newest first."""
    found = open_cluster(_profile(cluster)).list()
    _tell_trackers(found)
    return found


def delete(
    run_ids: Iterable[str],
    cluster: str | ClusterProfile | None = None,
    *,
    keep_tracked: bool = False,
    dry_run: bool = False,
) -> None:
    """Delete ended runs: what MLflow has of them, their checkpoints and records, and what their cluster keeps. All are
    looked at before one is touched; what a killed deletion has left is deleted by another.

    Args:
        run_ids: the runs.
        cluster: as for ``attach``.
        keep_tracked: leave them in MLflow.
        dry_run: only look whether they can be deleted.

    Raises:
        SpecError: one has not ended.
        NotFoundError: there is no such run.
        InfrastructureError: MLflow or the storage does not answer, or only the cluster's pods reach that.
    """
    from orchestrator import housekeeping

    by_cluster: dict[str, list[str]] = {}
    for run_id in dict.fromkeys(run_ids):
        where = recall(run_id) if cluster is None else ""
        by_cluster.setdefault(where, []).append(run_id)
    found = [
        (open_cluster(load_profile(where) if cluster is None else _profile(cluster)), ids)
        for where, ids in by_cluster.items()
    ]
    for backend, ids in found:
        housekeeping.refuse_undeletable(backend, ids)
    for backend, ids in () if dry_run else found:
        housekeeping.delete(backend, ids, keep_tracked=keep_tracked)


def usage(cluster: str | ClusterProfile = "local") -> Usage:
    """Bytes in a cluster's storage: of each run, of what runs share, of MLflow where its files are there as well.
    Raises InfrastructureError where this process can't reach the storage.
    """
    from orchestrator import housekeeping

    return housekeeping.usage(open_cluster(_profile(cluster)))


def prune(
    cluster: str | ClusterProfile = "local",
    *,
    older_than_seconds: float,
    keep_best: bool = False,
    dry_run: bool = False,
) -> Pruning:
    """Delete what is old: runs that ended so long ago, with all that ``delete`` deletes; and, while no run lives, what was
    prepared of data so long ago, which is prepared again where it is needed.

    Args:
        cluster: as for ``make_plan``.
        older_than_seconds: how long ago.
        keep_best: of these runs remove all checkpoints but the best, and nothing else.
        dry_run: only say what would be removed.

    Raises:
        InfrastructureError: as ``delete``.
    """
    from orchestrator import housekeeping

    backend = open_cluster(_profile(cluster))
    found = housekeeping.pruning(backend, before=time.time() - older_than_seconds, keep_best=keep_best)
    if not dry_run:
        housekeeping.prune(backend, found)
    return found


def upload(
    source: str | os.PathLike[str],
    cluster: str | ClusterProfile,
    *,
    to: str | None = None,
    replace: bool = False,
    on_sent: Callable[[int, int], None] | None = None,
) -> Uploaded:
    """Put a folder or a file where the jobs of a cluster read it: under its name there is nothing before all is there. Of one
    that was cut off, a claim or a shared folder keeps what has arrived, and the same call goes on with it.

    Args:
        source: folder or file of this machine.
        cluster: as for ``make_plan``.
        to: a path below ``data/`` in the cluster's storage, or a whole one in there or in a claim that jobs may write to.
            Default: the source's name.
        replace: whether what is there under the name gives way.
        on_sent: called with the bytes that are there and those of all.

    Raises:
        SpecError: the name is taken, or the folder can't be sent: a link out of it, say.
        NotFoundError: there is no such folder or file.
        InfrastructureError: no right, no room, or the connection was lost.
    """
    profile, at = _profile(cluster), Path(source).expanduser().absolute()
    files = list_source(at)
    place = place_for(profile, at.name, to)
    target = open_cluster(profile).upload_target(place, replace=replace)
    try:
        sent = send(files, target, on_sent or (lambda done, total: None))
    finally:
        target.close()
    total = sum(file.size_bytes for file in files.values())
    return Uploaded(path=place, files=len(files), bytes=total, sent_bytes=sent)


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
        of the launches whose output the cluster has kept.

        Raises:
            NotFoundError: there is no such run.
        """
        status = self.status()
        now = None if status.state.is_final else time.time()
        found = self._told_ledger(status, now)
        if found.launch != status.launch:
            return found  # the newest launch has no driver yet
        placed = self.cluster.placed(self.id)
        moments = (placed.scheduled_at, placed.started_at) if placed else (None, None)
        return found.with_wait(status.submitted_at, *moments)

    def _told_ledger(self, status: RunStatus, now: float | None) -> Ledger:
        with suppress(OSError, InfrastructureError, NotFoundError):
            kept = RunRecord(self._storage_here()).ledger(status.launch)
            if kept is not None:
                return kept if now is None else kept.up_to(now)
        told = (event for line in self.cluster.logs(self.id) if (event := events.parse(line)))
        return ledger_of(told, {status.launch: status.submitted_at}, now)

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
        return sync(_storage_of(status), status if status.state.is_final else None, anew=True)

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
            self.id, partial(_revised, overrides=tuple(overrides), from_checkpoint=from_checkpoint)
        )

    def delete(self, *, keep_tracked: bool = False) -> None:
        """Delete it, as ``delete`` does."""
        delete([self.id], self.cluster.profile, keep_tracked=keep_tracked)

    def _storage(self) -> str:
        return _storage_of(self.status())

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


def _profile(cluster: str | ClusterProfile) -> ClusterProfile:
    return cluster if isinstance(cluster, ClusterProfile) else load_profile(cluster)


def _storage_of(status: RunStatus) -> str:
    return status.urls.get("checkpoints", "").removesuffix("/checkpoints")


def _tracked(status: RunStatus) -> RunStatus:
    """The status; the tracker has been told where it is an end."""
    from orchestrator.telemetry.closing import close_quietly

    if status.state.is_final and _storage_of(status):
        close_quietly(_storage_of(status), status)
    return status


def _tell_trackers(found: Iterable[RunStatus]) -> None:
    """As ``_tracked`` for many. One look at each run's record: so only where records lie on a disk of this machine; and
    no more of them once a tracker did not answer.
    """
    from orchestrator.telemetry.closing import close_quietly

    for status in found:
        storage = _storage_of(status)
        if (
            status.state.is_final
            and Path(storage or ".", "tracking").is_dir()
            and not close_quietly(storage, status)
        ):
            return


def _revised(plan: Plan, overrides: tuple[str, ...], from_checkpoint: str) -> Plan:
    if overrides and plan.question is not None:
        raise SpecError(
            f"{plan.run_id} asks a trained model and goes on as it was asked: leave {overrides[0]} out, or ask anew"
        )
    if overrides:
        job = load_spec(plan.job.model_dump(mode="json"), overrides)
        if plan.job.own_factories:
            own_code.put_first(own_code.folder_of(plan.base_dir, plan.job.environment.working_dir))
        plan = revise(plan, job, _tried(plan.job)[1], version=orchestrator.__version__)
        check_schedule(plan.job.training.schedule, plan.total_steps)
    return plan.model_copy(update={"resume_from": from_checkpoint})


def _with_own_code(job: JobSpec, folder: str) -> tuple[JobSpec, tuple[str, ...]]:
    """The job with what its own code says, which is imported as a worker will; the same job where it has none."""
    if not job.own_factories:
        return job, ()
    notes: tuple[str, ...] = ()
    objective = job.objective or default_objective(job.model)
    theirs = "custom" in (job.model.family, objective.kind) or job.own_factories != job.model_factories
    if job.environment.working_dir is None and theirs:
        # the code travels with the job, or workers elsewhere would not find it
        environment = job.environment.model_copy(update={"working_dir": "."})
        job = job.model_copy(update={"environment": environment})
        notes = (f"environment.working_dir: the job file's folder, {folder}, where the job's own code is",)
    own_code.put_first(own_code.folder_of(folder, job.environment.working_dir))
    if job.own_factories != job.model_factories:
        from orchestrator.strategies.own_optimizers import with_tried

        job = job.model_copy(update={"training": with_tried(job.training)})
    if not job.model_factories:
        return job, notes

    from orchestrator.models.looked_at import look

    seen = look(job.model, objective, job.training.seed)  # type: ignore[arg-type]
    check_own_averages(job.training, seen.averages)
    if seen.over_shares and job.scaling.range:
        raise SpecError(over_shares(", ".join(seen.over_shares[:5])))
    job = job.model_copy(update={"model": seen.model, "objective": seen.objective})
    return job, (*notes, *seen.notes)


def _tried(job: ResolvedJob, *, may_wait: bool = False) -> tuple[ResolvedJob, Counts, tuple[str, ...]]:
    """The job's counts; a model of a person's own is tried out for them, and what that tells is filled in. Where there is no
    torch, counting ``may_wait`` for the run.
    """
    if not job.model_factories:
        try:
            return job, _counts(job), ()
        except ModuleNotFoundError as error:
            if error.name != "torch" or not may_wait:
                raise
            return job, UNCOUNTED, (_NOT_COUNTED,)

    from orchestrator.models.looked_at import try_out

    trial = try_out(job.model, job.objective, job.initialize.lora)  # type: ignore[arg-type]
    return job.model_copy(update={"objective": trial.objective}), trial.counts, trial.notes


def _counts(job: ResolvedJob) -> Counts:
    """The counts of the job's model; remembered in the home by config, because counting imports torch (seconds)."""
    from orchestrator.models.sizes import count

    model, objective, lora = job.model, job.objective, job.initialize.lora
    sections = [
        section.model_dump(mode="json") for section in (model, objective, lora) if section is not None
    ]
    content = [orchestrator.__version__, *sections]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    remembered = home() / "cache" / "counts" / f"{key}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        return Counts.from_json(remembered.read_text(encoding="utf-8"))
    counts = count(model, objective, lora)
    with suppress(OSError):  # a home that can't be written is said where it matters
        store_at(str(remembered.parent)).write(remembered.name, counts.to_json().encode())
    return counts


def _error_for(status: RunStatus) -> TrainwrightError:
    from orchestrator import errors

    assert status.reason is not None
    kinds: dict[int, type[TrainwrightError]] = {2: SpecError, 3: errors.UserCodeError, 5: StoppedError}
    return kinds.get(status.reason.exit_code, errors.InfrastructureError)(
        f"{status.run_id}: {status.message}"
    )


def _tracking_uri(job: JobSpec, profile: ClusterProfile) -> str:
    if job.tracking.kind == "none":
        return ""
    return without_password(job.tracking.uri or tracking_uri_of(profile))


def tracking_uri_of(profile: ClusterProfile) -> str:
    """Where runs of a cluster are tracked unless the job says otherwise; of MLFLOW_TRACKING_URI also the password."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given and not profile.mlflow and (problem := store_problem(given)):
        raise SpecError(f"MLFLOW_TRACKING_URI: {problem}")
    return profile.mlflow or given or f"sqlite:///{home() / 'mlflow.db'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user of a container that has no name
        return ""


def _git_commit(folder: str) -> str:
    try:
        answer = subprocess.run(
            ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
