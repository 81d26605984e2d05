from __future__ import annotations

import sys
from json import dumps
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def logs(
    run: RunId,
    cluster: ClusterOfRun = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    rank: Annotated[
        int | None, typer.Option("--rank", help="One worker's own output, over all attempts.", min=0)
    ] = None,
    json: AsJson = False,
) -> None:
    """Print a run's output: the driver's, or one worker's. With --json its events too: a list, or with --follow one a
    line as they come.
    """
    from orchestrator import events, sdk

    handle = sdk.attach(run, cluster)
    if json:
        lines = handle.cluster.logs(run, follow=follow, rank=rank)
        told = (events.parse(line) or {"event": "text", "text": line} for line in lines)
        if not follow:
            print_json(list(told))
            return
        for event in told:
            say(dumps(event))
            sys.stdout.flush()
        return
    for line in handle.logs(follow=follow, rank=rank):
        say(line)
