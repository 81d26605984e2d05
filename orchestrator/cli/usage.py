from __future__ import annotations

from orchestrator.cli.options import AsJson, ClusterName, print_json, say


def usage(cluster: ClusterName = "local", json: AsJson = False) -> None:
    """Show what takes room in a cluster's storage: runs with their checkpoints, the cache, MLflow."""
    from orchestrator import sdk
    from orchestrator.section import format_bytes

    found = sdk.usage(cluster)
    if json:
        print_json({**found.model_dump(mode="json"), "total_bytes": found.total_bytes})
        return
    rows = [("RUN", "STATE", "CHECKPOINTS", "OTHER")]
    rows += [
        (run.run_id, run.state, format_bytes(run.checkpoint_bytes), format_bytes(run.other_bytes))
        for run in found.runs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows if found.runs else ():
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say(
        f"cache {format_bytes(found.cache_bytes)}, MLflow {format_bytes(found.tracking_bytes)},"
        f" all {format_bytes(found.total_bytes)}"
    )
