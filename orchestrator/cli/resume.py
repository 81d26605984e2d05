from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, Overrides, RunId, print_json, say


def resume(
    run: RunId,
    cluster: ClusterOfRun = None,
    set_: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow it until it has ended.")] = False,
    json: AsJson = False,
) -> None:
    """Launch an ended run again from its newest good checkpoint, on other workers or in another strategy if you
    like: --set scaling.workers=8.
    """
    from orchestrator import sdk

    handle = sdk.attach(run, cluster)
    found = handle.resume(set_ or ())
    if follow:
        from orchestrator.cli.follow import follow as follow_run

        sys.exit(follow_run(handle))
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        say(f"{run}: launch {found.launch}, {found.state}")
