from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterName, print_json, say


def list_runs(
    cluster: ClusterName = "local",
    all_: Annotated[
        bool,
        typer.Option(
            "--all", "-a", help="Also runs that the cluster has forgotten, by the records in its storage."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """List the runs of a cluster, newest first."""
    from datetime import datetime

    from orchestrator import sdk
    from orchestrator.spec.load import load_profile

    profile = load_profile(cluster)
    runs = sdk.list_runs(profile, forgotten=all_)
    if not all_ and profile.kind != "local":
        sys.stderr.write(
            f"of runs that {profile.name} has forgotten its storage was not asked: trainwright list --cluster {cluster} --all\n"
        )
    if json:
        print_json([status.model_dump(mode="json") for status in runs])
        return
    if not runs:
        say(f"no runs on {cluster}")
        return
    rows = [("RUN", "STATE", "STEP", "SUBMITTED", "")]
    for status in runs:
        submitted = datetime.fromtimestamp(status.submitted_at).strftime("%Y-%m-%d %H:%M")
        note = status.message if status.state == "pending" else str(status.reason or "")
        note = "" if note == "completed" else note
        rows.append(
            (status.run_id, str(status.state), f"{status.step}/{status.total_steps}", submitted, note)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
