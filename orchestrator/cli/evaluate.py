from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import (
    AsJson,
    Averaged,
    BestCheckpoint,
    ClusterOfRun,
    FurtherFiles,
    RunOrCheckpoint,
    StepOfCheckpoint,
    Workers,
    print_json,
    say,
    which_checkpoint,
)


def evaluate(
    run: RunOrCheckpoint,
    further: FurtherFiles = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A file, a folder or a pattern, with labels. Default: what the run itself evaluates on.",
            metavar="PATH",
        ),
    ] = None,
    step: StepOfCheckpoint = None,
    best: BestCheckpoint = False,
    ema: Averaged = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="More than training measured, as objective.metrics takes them: f1,auroc.",
            metavar="A,B",
        ),
    ] = None,
    workers: Workers = 1,
    cluster: ClusterOfRun = None,
    json: AsJson = False,
) -> None:
    """Measure a run's model on other data by the metrics of its training, and tell its MLflow."""
    import sys

    from orchestrator import sdk
    from orchestrator.errors import InfrastructureError, NotFoundError, SpecError

    if data is None and further:
        raise SpecError(f"{further[0]}: files to measure on are given with --data")
    trained = sdk.stored(run, cluster)
    files = None if data is None else [data, *(further or ())]
    found = trained.evaluate(
        files,
        which=which_checkpoint(best, step),
        averaged=ema,
        metrics=[one for one in (metrics or "").split(",") if one],
        workers=workers,
    )
    try:
        new = trained.track(found)
        told = f"MLflow has them as evaluate/{found.data}/..., at step {found.step}"
        if new == 0:
            told += "; those that it had before stay"
    except NotFoundError as error:
        told = f"MLflow is not told: {error}"
    except InfrastructureError as error:
        told = ""
        sys.stderr.write(f"warning: {error}\n")
    if json:
        print_json(found.model_dump(mode="json"))
        return
    say(f"{found.samples:,} samples of {found.data} by the model of step {found.step}")
    width = max(len(name) for name in found.metrics)
    for name, value in found.metrics.items():
        say(f"  {name.ljust(width)}  {value:.6g}")
    if told:
        say(told)
