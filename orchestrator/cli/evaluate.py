from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.answer import answer, show_evaluation
from orchestrator.cli.options import (
    AsJson,
    Averaged,
    BestCheckpoint,
    ClusterOfRun,
    FurtherFiles,
    Here,
    RunOrCheckpoint,
    StepOfCheckpoint,
    Workers,
    print_json,
    say,
    which_checkpoint,
)

if TYPE_CHECKING:
    from orchestrator.inference.results import Evaluation
    from orchestrator.stored_run import StoredRun


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
    workers: Workers = None,
    cluster: ClusterOfRun = None,
    here: Here = False,
    json: AsJson = False,
) -> None:
    """Measure a run's model on other data by the metrics of its training, where it was trained, and tell its MLflow."""
    from orchestrator import ask, sdk
    from orchestrator.errors import SpecError

    if data is None and further:
        raise SpecError(f"{further[0]}: files to measure on are given with --data")
    trained = sdk.stored(run, cluster)
    files = None if data is None else [data, *(further or ())]
    asked: dict[str, Any] = {
        "which": which_checkpoint(best, step),
        "averaged": ema,
        "metrics": [one for one in (metrics or "").split(",") if one],
    }
    if (there := ask.place_of(trained, cluster)) is not None and not here:
        answer(ask.evaluate(trained, files, cluster=there, workers=workers, **asked), json=json)
        return
    found = trained.evaluate(files, workers=workers or 1, **asked)
    told = _tracked(trained, found)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    show_evaluation(found)
    if told:
        say(told)


def _tracked(trained: StoredRun, found: Evaluation) -> str:
    """Tells MLflow; returns a sentence about that."""
    from orchestrator.errors import InfrastructureError, NotFoundError

    try:
        new = trained.track(found)
    except NotFoundError as error:
        return f"MLflow is not told: {error}"
    except InfrastructureError as error:
        sys.stderr.write(f"warning: {error}\n")
        return ""
    told = f"MLflow has them as evaluate/{found.data}/..., at step {found.step}"
    return told + "; those that it had before stay" if new == 0 else told
