from __future__ import annotations

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def sync(run: RunId, cluster: ClusterOfRun = None, json: AsJson = False) -> None:
    """Send to MLflow what it lacks of a run: after an outage, a kill, or where the run was deleted there."""
    from orchestrator import sdk

    handle = sdk.attach(run, cluster)
    sent = handle.sync()
    if json:
        print_json({"run": run, "values_sent": sent})
    elif sent is None:
        say(f"{run}: the run is sending by itself")
    else:
        say(f"{run}: {f'sent {sent} metric values' if sent else 'MLflow has all of it'}")
