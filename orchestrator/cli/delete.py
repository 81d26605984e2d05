from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, Confirmed, complete_run, print_json, say


def delete(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="The runs' ids, as list shows them.", metavar="RUN...", autocompletion=complete_run
        ),
    ],
    cluster: ClusterOfRun = None,
    keep_mlflow: Annotated[bool, typer.Option("--keep-mlflow", help="Leave them in MLflow.")] = False,
    yes: Confirmed = False,
    json: AsJson = False,
) -> None:
    """Delete ended runs: checkpoints, records, and what MLflow has of them. Without --yes it only says what would go."""
    from orchestrator import sdk

    ids = tuple(dict.fromkeys(runs))
    sdk.delete(ids, cluster, keep_tracked=keep_mlflow, dry_run=not yes)
    if json:
        print_json({"runs": ids, "deleted": yes})
        return
    for run in ids:
        say(
            f"{run}: {'deleted' if yes else 'would be deleted: checkpoints, records'}{'' if yes or keep_mlflow else ', MLflow run'}"
        )
    if not yes:
        say("nothing was deleted; --yes does it")
