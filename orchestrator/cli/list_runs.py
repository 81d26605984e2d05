from __future__ import annotations

from orchestrator.cli.options import AsJson, ClusterName, print_json, say


def list_runs(cluster: ClusterName = "local", json: AsJson = False) -> None:
    """List the runs of a cluster, newest first."""
    from datetime import datetime

    from orchestrator import sdk

    runs = sdk.list_runs(cluster)
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
