from __future__ import annotations

from orchestrator.cli.links import opened, ui_command
from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def status(run: RunId, cluster: ClusterOfRun = None, json: AsJson = False) -> None:
    """Show how a run stands, why it ended, its best checkpoint, and where to look."""
    from orchestrator import progress, sdk

    attached = sdk.attach(run, cluster)
    found = attached.status()
    if json:
        print_json({**found.model_dump(mode="json"), "seconds": round(progress.seconds_of(found), 3)})
        return
    rows = progress.rows(found)
    profile = attached.cluster.profile
    links = opened(found.urls, profile, run)
    rows += sorted(links.items())
    rows.append(("what happened", f"trainwright logs {run}"))
    if ui_command(profile) not in links.values():
        rows.append(("its curves", ui_command(profile)))
    if found.best:
        rows.append(("its best model", f"trainwright export {run} --best"))
    if found.state.is_final and found.state != "succeeded":
        rows.append(("go on", f"trainwright resume {run}"))
    for name, text in rows:
        say(f"{name:<24} {text}")
