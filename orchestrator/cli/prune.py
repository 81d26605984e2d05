from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterName, Confirmed, print_json, say


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="How long ago runs ended: 30d, 12h.", metavar="DURATION")
    ],
    cluster: ClusterName = "local",
    keep_best: Annotated[
        bool,
        typer.Option(
            "--keep-best", help="Keep of each run its best checkpoint, its records and its MLflow run."
        ),
    ] = False,
    yes: Confirmed = False,
    json: AsJson = False,
) -> None:
    """Delete runs that ended long ago and, while none lives, what was prepared of data before that. Without --yes it
    only says what would go.
    """
    from orchestrator import sdk
    from orchestrator.errors import SpecError
    from orchestrator.section import format_bytes, parse_seconds

    try:
        seconds = parse_seconds(older_than)
    except ValueError as error:
        raise SpecError(f"--older-than: {error}") from None
    found = sdk.prune(cluster, older_than_seconds=seconds, keep_best=keep_best, dry_run=not yes)
    if json:
        print_json({**found.model_dump(mode="json"), "deleted": yes})
        return
    for run in found.runs:
        say(f"run         {run}")
    for folder in found.checkpoints:
        say(f"checkpoint  {folder}")
    if found.cached:
        say(f"cache       {len(found.cached)} entries")
    size = format_bytes(found.bytes)
    say(f"{size} deleted" if yes else f"{size} would be deleted; nothing was; --yes does it")
