from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, Overrides, RunId, print_json, say


def resume(
    run: RunId,
    cluster: ClusterOfRun = None,
    set_: Overrides = None,
    from_: Annotated[
        str,
        typer.Option(
            "--from", help="The checkpoint: newest, best, or the number of a step.", metavar="WHICH"
        ),
    ] = "newest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow it until it has ended.")] = False,
    json: AsJson = False,
) -> None:
    """Launch an ended run again from its newest good checkpoint, or another one, on other workers or in another
    strategy if you like: --set scaling.workers=8.
    """
    from orchestrator import sdk

    handle = sdk.attach(run, cluster)
    found = handle.resume(set_ or (), from_checkpoint=from_)
    if follow:
        from orchestrator.cli.follow import follow as follow_run

        sys.exit(follow_run(handle, json=json))
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        from_where = {"newest": "the newest checkpoint", "best": "the best checkpoint"}.get(
            from_, f"step {from_}"
        )
        say(f"{run}: launch {found.launch}, {found.state}; goes on from {from_where}")
