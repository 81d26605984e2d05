from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def stop(
    run: RunId,
    cluster: ClusterOfRun = None,
    now: Annotated[bool, typer.Option("--now", help="End it at once, without saving.")] = False,
    json: AsJson = False,
) -> None:
    """Stop a run: finish the step, save, end. Stopping an ended run changes nothing."""
    from orchestrator import sdk

    found = sdk.attach(run, cluster).stop(now=now)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        say(f"{run}: {found.state}{f', {found.message}' if found.message else ''}")
