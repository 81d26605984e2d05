from __future__ import annotations

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def status(run: RunId, cluster: ClusterOfRun = None, json: AsJson = False) -> None:
    """Show how a run stands, why it ended, its best checkpoint, and where to look."""
    from orchestrator import progress, sdk

    found = sdk.attach(run, cluster).status()
    if json:
        print_json({**found.model_dump(mode="json"), "seconds": round(progress.seconds_of(found), 3)})
        return
    rows = progress.rows(found)
    rows += sorted(found.urls.items())
    rows += [("what happened", f"trainwright logs {run}"), ("its curves", "trainwright ui")]
    if found.best:
        rows.append(("its best model", f"trainwright export {run} --best"))
    if found.state.is_final and found.state != "succeeded":
        rows.append(("go on", f"trainwright resume {run}"))
    for name, text in rows:
        say(f"{name:<24} {text}")
