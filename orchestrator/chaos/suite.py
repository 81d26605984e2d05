"""The whole of it: the job once as it is, then under its schedule of faults, and what each run has come to."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import checkpoint, data, sdk
from orchestrator.chaos.driver import COMMAND
from orchestrator.chaos.evidence import drafts_in, left_behind, points_in, taken_by_all, told_by
from orchestrator.chaos.findings import (
    Point,
    points_against,
    points_of_events,
    recovery_from,
    samples_against,
)
from orchestrator.chaos.injector import Injector
from orchestrator.chaos.mlflow_door import Door, mlflow_server
from orchestrator.chaos.places import Hit, Places
from orchestrator.chaos.report import FaultReport, Report, RunReport
from orchestrator.chaos.schedule import Fault, Kind, Shape, room_at_start, schedule_of
from orchestrator.clusters.local.cluster import LocalCluster
from orchestrator.errors import CheckpointError, InfrastructureError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.ray_settings import workers_here
from orchestrator.recovery.hangs import PATIENCE
from orchestrator.runs import EndReason, RunStatus
from orchestrator.spec.load import load_profile, load_spec
from orchestrator.spec.profile import ClusterProfile

STATE_TOLERANCE = 1e-3
"""Largest relative distance of all parameters, and of a metric's values, where a GPU need not give the same bits twice."""
_LOOK_SECONDS = 0.2
_LIMIT_SECONDS = 600.0
"""A run may take so much longer than its faults explain."""


@dataclass(frozen=True)
class Asked:
    """What is to be done."""

    job: str
    """The job file."""
    kinds: Sequence[Kind]
    count: int
    per_run: int = 1
    seed: int = 1
    only: int | None = None
    """One run of the schedule alone."""
    overrides: tuple[str, ...] = ()
    cluster: str = "local"


class Suite:
    """One schedule in one folder."""

    def __init__(self, asked: Asked, folder: Path) -> None:
        """Decide all that will happen; nothing is started.

        Args:
            asked: what is to be done.
            folder: for the runs, their data and their MLflow.

        Raises:
            SpecError: the job can't be trained as written, can't have these faults, or runs elsewhere.
            DataError: the data can't be read or is not what the job says.

        """
        refuse_elsewhere(asked.cluster)
        self._asked, self._folder = asked, folder
        self._notice, self._database = folder / "notice", folder / "mlflow.db"
        self._door: Door | None = None
        profile = ClusterProfile(
            name="chaos", kind="local", storage=str(folder), notice_file=str(self._notice)
        )
        self._cluster = LocalCluster(profile, COMMAND)
        self.changed = changes_for(asked, f"sqlite:///{self._database}")
        self._plan = self._made(profile)
        if "resize" in asked.kinds:
            self.changed = (*self.changed, *sizes_for(self._plan, workers_here(self._plan)))
            self._plan = self._made(profile)
        self.schedule = schedule_of(
            Shape.of(self._plan), asked.kinds, count=asked.count, per_run=asked.per_run, seed=asked.seed
        )
        if asked.only is not None and asked.only not in {fault.run for fault in self.schedule}:
            raise SpecError(f"--only {asked.only}: the schedule has runs 1 to {self.schedule[-1].run}")
        self.said_before = said_before(self._plan, asked.kinds)

    def _made(self, profile: ClusterProfile) -> Plan:
        overrides = (*self._asked.overrides, *self.changed)
        return sdk.make_plan(self._asked.job, profile, run_id="undisturbed", overrides=overrides)

    def run(self, say: Callable[[str], None] = lambda line: None) -> Report:
        """Do it; ``say`` hears a line for each thing that is done.

        Raises:
            InfrastructureError: the run that nothing is done to did not come to its end.

        """
        with self._mlflow():
            return self._run(say)

    @contextlib.contextmanager
    def _mlflow(self) -> Iterator[None]:
        """An MLflow server behind a door, where a fault is to be one of its; else runs write to the database themselves."""
        if "mlflow" not in self._asked.kinds:
            yield
            return
        with mlflow_server(self._folder) as address:
            self._door = Door(address)
            self._plan = self._plan.model_copy(update={"tracking_uri": self._door.address})
            try:
                yield
            finally:
                self._door.shut()

    def _run(self, say: Callable[[str], None]) -> Report:
        undisturbed = self._undisturbed()
        say(f"      undisturbed: {undisturbed.status.step} steps in {undisturbed.seconds:.0f} s")
        runs = []
        for number in sorted({fault.run for fault in self.schedule}):
            if self._asked.only in (None, number):
                runs.append(self._disturbed(number, undisturbed))
                for line in (*(fault.line for fault in runs[-1].faults), *runs[-1].broken):
                    say(f"      {line}")
                say(runs[-1].line)
        asked = self._asked
        return Report(
            job=asked.job,
            seed=asked.seed,
            faults=tuple(asked.kinds),
            count=asked.count,
            per_run=asked.per_run,
            changed=self.changed,
            said_before=self.said_before,
            undisturbed_seconds=round(undisturbed.seconds, 1),
            runs=tuple(runs),
        )

    def _undisturbed(self) -> _Ended:
        ended = self._ended(self._plan, [])
        if ended.status.reason is not EndReason.COMPLETED:
            raise InfrastructureError(
                f"the run that nothing was done to {ended.status.state}: {ended.status.message}; trainwright run"
                f" {self._asked.job} shows more"
            )
        prepared = data.prepare(self._plan)
        seed = self._plan.job.training.seed
        self._order = list(data.samples_by_step(prepared, seed=seed, steps=ended.status.step))
        return ended

    def _disturbed(self, number: int, undisturbed: _Ended) -> RunReport:
        faults = [fault for fault in self.schedule if fault.run == number]
        run_id = f"run-{number}"
        plan = self._plan.model_copy(
            update={"run_id": run_id, "storage": self._plan.storage.removesuffix("undisturbed") + run_id}
        )
        ended = self._ended(plan, faults)
        report = _reported(number, faults, ended, undisturbed, self._order, self._tolerance)
        heeds_notice = self._plan.job.recovery.on_notice == "save"
        said = broken(report, undisturbed.status.step, self._tolerance, heeds_notice=heeds_notice)
        return report.model_copy(update={"broken": (*report.broken, *said)})

    @property
    def _tolerance(self) -> float:
        """What two runs may differ by; 0 asks for the same bits."""
        return 0.0 if same_bits(self._plan, self._asked.kinds) else STATE_TOLERANCE

    def _ended(self, plan: Plan, faults: list[Fault]) -> _Ended:
        """Train a plan under faults to its end, resumed where a full disk has ended it."""
        places, began = Places(plan.storage), time.time()
        places.schedule(faults)
        if "resize" in self._asked.kinds:
            places.set_room(room_at_start(faults, Shape.of(plan).sizes))
        run = sdk.Run(plan.run_id, self._cluster)
        deadline = time.monotonic() + _LIMIT_SECONDS + _longest(plan, faults)
        with Injector(places, self._notice, self._door):
            try:
                self._cluster.submit(self._cluster.render(plan))
                status = _waited(run, deadline)
                while status.reason is EndReason.STORAGE_FAILED and _has_passed(places.hits(), status.launch):
                    run.resume()
                    status = _waited(run, deadline)
            except BaseException:
                self._cluster.stop(plan.run_id, now=True)
                raise
        told = told_by(self._cluster.logs(plan.run_id))
        return _Ended(
            status=status,
            seconds=time.time() - began,
            hits=places.hits(),
            told=told,
            taken=taken_by_all(plan.storage),
            points=points_in(self._database, plan.run_id) if plan.tracking_uri else points_of_events(told),
            saved=_newest(plan),
            left=left_behind(plan.storage),
            drafts=drafts_in(plan.storage),
        )


@dataclass(frozen=True)
class _Ended:
    """A run, and what it has left."""

    status: RunStatus
    seconds: float
    hits: list[Hit]
    told: list[dict[str, object]]
    taken: dict[tuple[int, int], dict[int, list[int]]]
    points: Counter[Point]
    saved: checkpoint.Checkpoint | None
    left: tuple[str, ...]
    drafts: tuple[str, ...]


def _newest(plan: Plan) -> checkpoint.Checkpoint | None:
    try:
        return checkpoint.newest_good(f"{plan.storage}/checkpoints")
    except (CheckpointError, OSError):
        return None


def _waited(run: sdk.Run, deadline: float) -> RunStatus:
    while not (status := run.status()).state.is_final:
        if time.monotonic() > deadline:
            return run.stop(now=True)
        time.sleep(_LOOK_SECONDS)
    return status


def _has_passed(hits: Iterable[Hit], launch: int) -> bool:
    """Wait until disks take files again; whether as many have been full as launches have ended by it."""
    full = [hit for hit in hits if hit.fault.kind == "disk"]
    for hit in full:
        time.sleep(max(0.0, hit.time + hit.fault.seconds - time.time()))
    return len(full) >= launch


def _longest(plan: Plan, faults: Iterable[Fault]) -> float:
    hangs = sum(fault.kind == "hang" for fault in faults)
    return hangs * PATIENCE * plan.job.recovery.hang_timeout


# -- what is said before -----------------------------------------------------------------------------------------


def refuse_elsewhere(cluster: str) -> None:
    """Raises SpecError where a profile is not of this machine: the faults need the workers' processes."""
    profile = load_profile(cluster)
    if profile.kind != "local":
        raise SpecError(
            f"--cluster {cluster}: chaos strikes processes of this machine, and a profile of kind {profile.kind} has its workers"
            " elsewhere; leave --cluster out"
        )


def changes_for(asked: Asked, tracking: str) -> tuple[str, ...]:
    """What is set on top of the job, as ``--set`` would. Raises SpecError for a fault of what the job does not have."""
    job = load_spec(asked.job, asked.overrides)
    most = max(job.recovery.max_failures, 2 * asked.per_run)
    changed = ["training.log_every=1", f"recovery.max_failures={most}"]
    if job.tracking.kind == "none" and "mlflow" in asked.kinds:
        raise SpecError("--faults mlflow: the job tracks nothing (tracking.kind: none)")
    if "resize" in asked.kinds:
        if job.scaling.range is None:
            raise SpecError(
                f"--faults resize: scaling.workers is {job.scaling.workers}, a number that never changes; give it a range:"
                " --set 'scaling.workers={min: 1, max: 2}'"
            )
        changed.append("scaling.workers.stabilization_window=0")
    if job.tracking.kind != "none":
        changed.append(f"tracking.uri={tracking}")
    return tuple(changed)


def sizes_for(plan: Plan, room: int) -> tuple[str, ...]:
    """What is set on top of a job whose workers change, so that this machine has room for the most. Raises SpecError where it has for
    no two sizes.
    """
    sizes = [size.workers for size in plan.sizes if size.workers <= room]
    if len(sizes) < 2:
        raise SpecError(
            f"--faults resize: this machine has room for {room} of its workers, and with that the group has one size; lower"
            " scaling.workers.min or scaling.cpus_per_worker"
        )
    return () if sizes[-1] == plan.world_size else (f"scaling.workers.max={sizes[-1]}",)


def same_bits(plan: Plan, kinds: Iterable[Kind] = ()) -> bool:
    """Whether the same steps give the same bits each time."""
    is_exact = plan.job.training.deterministic or not plan.job.scaling.gpus_per_worker
    return is_exact and "resize" not in kinds


def said_before(plan: Plan, kinds: Iterable[Kind]) -> tuple[str, ...]:
    """What this job can't promise of these faults, a sentence each."""
    recovery, said = plan.job.recovery, []
    if "resize" in kinds:
        said.append(
            f"state: a group of another size adds up in another order, so final states may differ by {STATE_TOLERANCE:g}, relative; a"
            " model with dropout draws other numbers there, and may differ by more"
        )
    elif not same_bits(plan):
        said.append(
            "state: a GPU need not give the same bits twice without training.deterministic: true, so final states may differ by"
            f" {STATE_TOLERANCE:g}, relative"
        )
    if "notice" in kinds and recovery.on_notice == "ignore":
        said.append("notice: recovery.on_notice is ignore, so SIGTERM is a kill and steps are taken again")
    if "hang" in kinds:
        said.append(
            f"hang: each is noticed recovery.hang_timeout, {recovery.hang_timeout:g} s, after the longest step; --set"
            " recovery.hang_timeout=5 is quicker"
        )
    if "disk" in kinds:
        said.append(
            "disk: a run whose save is refused ends as failed, as it should; it is resumed when the disk takes files again"
        )
    return tuple(said)


# -- what a run has come to ----------------------------------------------------------------------------------------


def _reported(
    number: int,
    faults: list[Fault],
    ended: _Ended,
    undisturbed: _Ended,
    order: list[list[int]],
    tolerance: float,
) -> RunReport:
    samples = samples_against(ended.taken, order)
    points = points_against(ended.points, undisturbed.points, tolerance=tolerance)
    unequal, distance = _beside(ended.saved, undisturbed.saved)
    said = [ended.status.message] if ended.status.reason is not EndReason.COMPLETED else []
    for name, keys in (("lost", points.lost), ("doubled", points.doubled), ("other", points.other)):
        if keys:
            said.append(f"points {name}: {', '.join(f'{key} of step {step}' for key, step in keys[:3])}")
    return RunReport(
        run=number,
        run_id=ended.status.run_id,
        faults=tuple(_of_fault(fault, ended) for fault in faults),
        state=ended.status.state,
        step=ended.status.step,
        launches=ended.status.launch,
        attempts=ended.status.attempt,
        seconds=round(ended.seconds, 1),
        samples=samples.counted,
        samples_doubled=samples.doubled,
        samples_missed=samples.missed,
        points=points.there,
        points_lost=len(points.lost),
        points_doubled=len(points.doubled),
        points_other=len(points.other),
        unequal_elements=unequal,
        distance=distance,
        left_behind=ended.left,
        drafts=ended.drafts,
        broken=tuple(said),
    )


def _beside(
    saved: checkpoint.Checkpoint | None, other: checkpoint.Checkpoint | None
) -> tuple[float | None, float | None]:
    if saved is None or other is None:
        return None, None
    unequal = checkpoint.unequal_elements(saved, other)
    unequal += saved.meta["scalars"] != other.meta["scalars"]
    return unequal, checkpoint.relative_distance(saved, other) if unequal else 0.0


def _of_fault(fault: Fault, ended: _Ended) -> FaultReport:
    hit = next((hit for hit in ended.hits if hit.fault.number == fault.number), None)
    if hit is None:
        return FaultReport(fault=fault, hit=False)
    later = [other.time for other in ended.hits if other.time > hit.time]
    found = recovery_from(hit, ended.told, min(later, default=float("inf")))
    return FaultReport(
        fault=fault,
        hit=True,
        attempt=hit.attempt,
        step=hit.step,
        rank=hit.rank,
        restarts=found.restarts,
        replayed=found.replayed,
        seconds=found.seconds,
        blamed=found.blamed,
    )


def broken(run: RunReport, last_step: int, tolerance: float, *, heeds_notice: bool) -> list[str]:
    """Which guarantees a run did not keep, a sentence each.

    Args:
        last_step: of the run that nothing happened to.
        tolerance: of the parameters, relative; 0 asks for the same bits of the whole state.
        heeds_notice: whether the job saves on a notice.
    """
    said = []
    if run.step != last_step:
        said.append(f"it ended at step {run.step}, the other at step {last_step}")
    if run.samples_doubled or run.samples_missed:
        said.append(f"{run.samples_doubled} samples were trained on twice, {run.samples_missed} not at all")
    if run.points_lost or run.points_doubled or run.points_other:
        said.append("metric points are not those of the other run")
    if run.distance is None or run.distance > tolerance or (not tolerance and run.unequal_elements):
        said.append(run.state_line)
    if run.left_behind:
        said.append(f"left behind: {', '.join(run.left_behind[:5])}")
    for one in run.faults:
        said += _not_as_promised(one, heeds_notice) if one.hit else []
    return said


def _not_as_promised(one: FaultReport, heeds_notice: bool) -> list[str]:
    """What a kind of fault promises of its own."""
    fault, found = one.fault, []
    name = f"fault {fault.number}, {fault.kind}"
    if fault.kind in ("slow", "mlflow") and one.restarts:
        found.append(f"{name}, made the workers start again")
    if fault.kind in ("notice", "resize") and heeds_notice and one.replayed:
        found.append(f"{name}: {one.replayed} steps were taken again")
    if fault.kind == "hang" and one.blamed != (one.rank,):
        named = f"workers {', '.join(map(str, one.blamed))}" if one.blamed else "nobody"
        found.append(f"fault {fault.number}: worker {one.rank} hung, and {named} was named")
    if fault.kind != "hang" and one.blamed:
        found.append(f"{name}: worker {one.blamed[0]} was named as hanging")
    return found
