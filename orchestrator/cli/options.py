"""Options that several verbs share, and how they print."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from orchestrator.errors import SpecError
from orchestrator.section import with_json_numbers


def complete_run(incomplete: str) -> list[str]:
    """Ids of this home's runs that begin so."""
    from orchestrator.spec.load import home

    return sorted(
        p.parent.name for p in (home() / "runs").glob("*/plan.json") if p.parent.name.startswith(incomplete)
    )


def _complete_cluster(incomplete: str) -> list[str]:
    from orchestrator.spec.load import list_profiles

    return [file.stem for file, _ in list_profiles() if file.stem.startswith(incomplete)]


JobFile = Annotated[str, typer.Argument(help="The job file.", metavar="JOB.yaml")]
RunId = Annotated[
    str, typer.Argument(help="The run's id, as list shows it.", metavar="RUN", autocompletion=complete_run)
]
RunOrCheckpoint = Annotated[
    str,
    typer.Argument(
        help="The run's id, the folder of one of its checkpoints, or models:/NAME@ALIAS or models:/NAME/VERSION.",
        metavar="RUN",
        autocompletion=complete_run,
    ),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--cluster",
        "-c",
        help="Where: a profile's name, or its file.",
        metavar="NAME|FILE",
        autocompletion=_complete_cluster,
    ),
]
ClusterOfRun = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        "-c",
        help="Where: a profile's name, or its file. Default: where it was submitted to from here.",
        metavar="NAME|FILE",
        autocompletion=_complete_cluster,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Override a field: training.max_steps=100. May be given again.",
        metavar="FIELD=VALUE",
    ),
]
StepOfCheckpoint = Annotated[
    int | None, typer.Option("--step", help="The checkpoint's step. Default: the newest.", min=0)
]
BestCheckpoint = Annotated[
    bool, typer.Option("--best", help="The best checkpoint, by checkpoint.keep.metric.")
]
Averaged = Annotated[
    bool, typer.Option("--ema", help="The moving averages of its weights (training.ema) instead of them.")
]
DataFiles = Annotated[
    str,
    typer.Option("--data", help="A file, a folder or a pattern, on disk, s3:// or gs://.", metavar="PATH"),
]
FurtherFiles = Annotated[
    list[str] | None,
    typer.Argument(
        help="Further files of --data, where the shell has made them of a pattern.", metavar="FILES"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes that hold the model. Default: on a cluster as many as trained it, here 1.",
        min=1,
    ),
]
Here = Annotated[
    bool,
    typer.Option("--here", help="On this machine, also where the run was trained on a cluster."),
]
Confirmed = Annotated[bool, typer.Option("--yes", "-y", help="Delete. Without it nothing is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def which_checkpoint(best: bool, step: int | None) -> str:
    """As ``checkpoint.chosen`` takes it. Raises SpecError where both are given."""
    if best and step is not None:
        raise SpecError("give --best or --step, not both")
    return "best" if best else "newest" if step is None else str(step)


def print_json(value: Any) -> None:
    """One JSON document on standard output, as ``json_text`` writes it."""
    sys.stdout.write(json_text(value))


def json_text(value: Any) -> str:
    """One JSON document. Numbers that JSON does not have are text: ``"NaN"``, ``"Infinity"``."""
    return json.dumps(with_json_numbers(value), indent=2, allow_nan=False) + "\n"


def say(text: str = "") -> None:
    """One line for a person on standard output."""
    sys.stdout.write(text + "\n")
