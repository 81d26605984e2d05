"""From a job file to its plan: what ``planning`` decides on is looked up here, of the data, the model, its code, this machine."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import orchestrator
from orchestrator import data, own_code
from orchestrator.clusters import open_cluster
from orchestrator.clusters.shared.packages import problem_with
from orchestrator.clusters.shared.run_records import is_reachable_from_here
from orchestrator.errors import InfrastructureError, SpecError
from orchestrator.fitting import auto, changes
from orchestrator.fitting.ask import simulator
from orchestrator.gpus import smallest_gpu
from orchestrator.models.configs import check_same_function, default_objective, filled_in, with_architecture
from orchestrator.models.sizes import UNCOUNTED, Counts
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
from orchestrator.runs import new_run_id, run_id_problem
from orchestrator.spec.addresses import store_problem, without_password
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import home, load_profile, load_spec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import absolute, is_uri, store_at

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
    profile = profile_of(cluster)
    folder = str(Path(base_dir or ".").resolve())
    _refuse_missing_working_dir(job, folder)

    weights = absolute(job.initialize.weights, folder) if job.initialize.weights else None
    model = with_architecture(filled_in(job.model, weights), folder)
    job, own_notes = _with_own_code(job.model_copy(update={"model": model}), folder)

    cache = f"{profile.storage}/cache" if profile.storage else str(home() / "cache")
    facts = data.bundled_facts(job) or open_cluster(profile).look_at_data(job, folder)
    facts = facts or data.inspect(job, folder, _cache_for_plans(profile))
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
    device = device_of(plan.job.scaling, profile_of(cluster), _this_machine)
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


def revised(plan: Plan, overrides: tuple[str, ...], from_checkpoint: str) -> Plan:
    """A run's plan for its next launch. Raises SpecError for an override that would change what is trained."""
    if overrides and plan.question is not None:
        raise SpecError(
            f"{plan.run_id} asks a trained model and goes on as it was asked: leave {overrides[0]} out, or ask anew"
        )
    if overrides:
        job = load_spec(plan.job.model_dump(mode="json"), overrides)
        if plan.job.own_factories:
            own_code.put_first(own_code.folder_of(plan.base_dir, plan.job.environment.working_dir))
        plan = revise(plan, job, _tried(plan.job, may_wait=True)[1], version=orchestrator.__version__)
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


def profile_of(cluster: str | ClusterProfile) -> ClusterProfile:
    """A profile by its name or file; a profile is one already."""
    return cluster if isinstance(cluster, ClusterProfile) else load_profile(cluster)


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
