from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterName, JobFile, Overrides, complete_run, print_json, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.planning.failures import Forecast
    from orchestrator.planning.plan import Plan, ResolvedJob
    from orchestrator.planning.verdict import Verdict
    from orchestrator.spec.profile import ClusterProfile


Fit = Annotated[
    bool | None,
    typer.Option(
        "--fit/--no-fit",
        help="Find out whether a worker fits its device, in seconds. Default: where workers have GPUs.",
        show_default=False,
    ),
]


FailuresText = Annotated[
    str,
    typer.Option(
        "--failures",
        help="Say what failures will cost: mtbf=6h of the run, or mtbf_node=30d (and nodes=8); with either repair=10m, step=0.5s,"
        " save=2s, restart=90s.",
        metavar="mtbf=DURATION",
        show_default=False,
    ),
]
Like = Annotated[
    str,
    typer.Option(
        "--like",
        help="With --failures: the run in whose ledger steps, saves and restarts were measured.",
        metavar="RUN",
        show_default=False,
        autocompletion=complete_run,
    ),
]


def plan(
    job: JobFile,
    cluster: ClusterName = "local",
    set_: Overrides = None,
    fit: Fit = None,
    failures: FailuresText = "",
    like: Like = "",
    json: AsJson = False,
) -> None:
    """Show everything that would happen, and the exact request; start nothing."""
    import yaml

    from orchestrator.clusters import open_cluster
    from orchestrator.clusters.shared.capacity import waiting_lines
    from orchestrator.sdk import make_plan
    from orchestrator.spec.load import load_profile

    profile = load_profile(cluster)
    made = make_plan(job, profile, overrides=set_ or ())
    request = open_cluster(profile).render(made)
    verdict, unknown = _verdict(made, profile, fit)
    forecast = _forecast(made, failures, like)
    if json:
        print_json(
            {
                "plan": made.model_dump(mode="json"),
                "digest": made.digest,
                "warnings": warnings(made, profile),
                "fit": _as_json(verdict),
                "failures": asdict(forecast) if forecast else None,
                "request": request.model_dump(mode="json", exclude={"plan"}),
            }
        )
        return
    expected = [f"{name:<10} {text}" for name, text in forecast.lines()] if forecast else []
    waits = [f"{'waiting':<10} {line}" for line in waiting_lines(made, profile)]
    for line in [*describe(made), *waits, *_fit_lines(verdict, unknown), *expected, *warnings(made, profile)]:
        say(line)
    say()
    say(f"request to {profile.name} ({request.kind}):")
    say(yaml.safe_dump(request.body, sort_keys=False, width=120).rstrip())


def _verdict(made: Plan, profile: ClusterProfile, fit: bool | None) -> tuple[Verdict | None, str]:
    """Where it was asked for, or else where workers have GPUs of a known size; and why it is not known of a model of a
    person's own, which trains all the same.
    """
    from orchestrator.errors import InfrastructureError, SpecError
    from orchestrator.sdk import judge

    if not (made.job.scaling.gpus_per_worker if fit is None else fit):
        return None, ""
    try:
        verdict = judge(made, profile)
    except (SpecError, InfrastructureError) as error:
        if fit or (made.parameters and not made.job.own_factories):
            raise
        return None, str(error)
    if verdict is None and fit:
        raise SpecError(
            f"--fit: profile {profile.name} does not tell how much memory a device has; give its node group"
            " accelerator_type or accelerator_memory, or scaling.accelerator_type"
        )
    return verdict, ""


def _forecast(made: Plan, text: str, like: str) -> Forecast | None:
    """What failures will cost, where that was asked. Raises SpecError where nobody knows what a step takes."""
    from orchestrator.errors import SpecError
    from orchestrator.planning.costs import costs_assumed, costs_measured, with_own
    from orchestrator.planning.failures import failures_of, forecast
    from orchestrator.sdk import attach

    if not text:
        if like:
            raise SpecError("--like goes with --failures")
        return None
    failures = failures_of(text, made.world_size)
    if like:
        run = attach(like)
        costs = costs_measured(run.ledger(), run.cluster.plan(run.id).checkpoint_every, like)
    elif "step" in failures.own:
        costs = costs_assumed(made, failures.own["step"])
    else:
        raise SpecError(
            "--failures: how long a step takes is not known: name a run that took such steps with --like RUN, or write"
            f" --failures {text},step=0.5s"
        )
    costs = with_own(costs, failures.own)
    return forecast(failures, costs, made.total_steps, made.checkpoint_every)


def _as_json(verdict: Verdict | None) -> dict[str, object] | None:
    if verdict is None:
        return None
    totals = {"needed": verdict.needed, "fits": verdict.fits, "total": verdict.peak.total}
    return {**verdict.model_dump(mode="json"), **totals}


def _fit_lines(verdict: Verdict | None, unknown: str) -> list[str]:
    lines = verdict.lines() if verdict is not None else [f"not known: {unknown}"] * bool(unknown)
    return [f"{'fit':<10} {line}" for line in lines]


def _weighed(made: Plan) -> Iterator[tuple[str, str]]:
    from orchestrator.fitting.auto import named
    from orchestrator.section import format_bytes

    for one in made.weighed:
        answer = "fits" if one.fits else "does not fit"
        sent = f"{format_bytes(one.sent)} sent in a step"
        yield "weighed", f"{named(one.strategy)}: {format_bytes(one.needed)} a worker, {sent}: {answer}"


def warnings(made: Plan, profile: ClusterProfile) -> list[str]:
    """What the run will suffer from on this machine, where that is where it runs; elsewhere, packages that pip does not find
    from here, which may be found from there, and processes that wait for a restart where nodes have too little memory.
    """
    import os

    from orchestrator.clusters.shared.capacity import waiting, warnings_here
    from orchestrator.clusters.shared.packages import problem_with
    from orchestrator.gpus import visible_gpus

    if profile.kind != "local":
        problem = problem_with(made.job.environment.pip)
        packages = [f"warning, as seen from here: {problem}"] if problem else []
        return [*packages, *(each.warning for each in waiting(made, profile) if each.warning)]
    return warnings_here(made, profile, cores=os.cpu_count() or 1, gpus=len(visible_gpus()))


def describe(made: Plan) -> list[str]:
    """A plan in a person's words, a line each."""
    from orchestrator.section import format_bytes

    job, memory = made.job, made.memory
    strategy = ", ".join(
        f"{key} {value}"
        for key, value in job.strategy.model_dump(mode="json").items()
        if key != "kind" and value not in ({}, [])
    )
    rows = [
        ("run", f"{made.run_id}  (digest {made.digest[:12]})"),
        (
            "model",
            f"{job.model.family}, "
            + (
                f"{made.parameters:,} parameters ({_trained(made)})" if made.parameters else "not counted yet"
            ),
        ),
        ("objective", job.objective.kind),
        ("strategy", f"{job.strategy.kind}{f' ({strategy})' if strategy else ''}, {_numbers(job)}"),
        *_batches(made),
        ("steps", f"{made.total_steps:,} of {job.training.global_batch_size} samples"),
        (
            "data",
            f"{_samples(made)}, read by {job.data.reader}",
        ),
        (
            "every",
            f"log {job.training.log_every}, evaluate {made.evaluate_every or '-'}, checkpoint {made.checkpoint_every} steps",
        ),
        (
            "memory",
            f"about {format_bytes(memory.total)} a worker: "
            + ", ".join(f"{part} {format_bytes(size)}" for part, size in memory.by_part.items())
            + (f"; {format_bytes(memory.offloaded)} offloaded" if memory.offloaded else ""),
        ),
        (
            "workers",
            f"{_workers(made)} × {job.scaling.cpus_per_worker:g} CPUs, {job.scaling.gpus_per_worker} GPUs"
            + (f" {job.scaling.accelerator_type}" if job.scaling.accelerator_type else ""),
        ),
        ("storage", made.storage),
        ("tracking", made.tracking_uri or "none"),
    ]
    if spares := job.recovery.spare_workers:
        at = [name for name, _ in rows].index("workers") + 1
        rows.insert(at, ("spares", f"{spares} × as much, held beside them for workers that are lost"))
    if not made.parameters:
        rows = [(name, value) for name, value in rows if name != "memory"]
    if made.flops_per_sample:
        rows.insert(2, ("compute", f"{made.flops_per_sample:.3g} FLOPs a sample, forward and backward"))
    rows += _weighed(made)
    return [f"{name:<10} {value}" for name, value in rows] + [f"{'note':<10} {note}" for note in made.notes]


def _batches(made: Plan) -> Iterator[tuple[str, str]]:
    """The batch arithmetic of each size that the group of workers may have."""
    from orchestrator.section import format_bytes

    if not made.sizes:
        yield "batch", made.batch_equation
    for size in made.sizes:
        equation = made.with_workers(size.workers).batch_equation
        yield "batch", f"{equation}, about {format_bytes(size.memory.total)} a worker"


def _workers(made: Plan) -> str:
    """How many, and how many there may be."""
    if not made.sizes:
        return str(made.world_size)
    return f"{made.least_workers} to {made.world_size}, as many as there is room for,"


def _samples(made: Plan) -> str:
    if not made.train_samples:
        return "as many samples as there are when it is prepared"
    return f"{made.train_samples:,} training samples, {made.eval_samples:,} for evaluation"


def _trained(made: Plan) -> str:
    frozen = made.parameters - made.trainable_parameters
    return f"{made.trainable_parameters:,} trained" + (f", {frozen:,} frozen" if frozen else "")


def _numbers(job: ResolvedJob) -> str:
    """In which formats is computed, and whether each time with the same bits."""
    training = job.training
    tf32 = " (products in TF32)" if training.tf32 and job.scaling.gpus_per_worker else ""
    return training.precision + tf32 + (", deterministic" if training.deterministic else "")
