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
    raw: Annotated[
        bool, typer.Option("--raw", help="Every line as it was written: events, whole tracebacks.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Print what happened in a run: stages, epochs, evaluations, saves, warnings, and what its code printed. With --json its
    events: a list, or with --follow one a line as they come.
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
    for line in handle.logs(follow=follow, rank=rank, raw=raw):
        say(line)
        sys.stdout.flush()
