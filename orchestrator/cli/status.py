from __future__ import annotations

import time

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, duration, print_json, say


def status(run: RunId, cluster: ClusterOfRun = None, json: AsJson = False) -> None:
    """Show how a run stands, why it ended, its best checkpoint, and where to look."""
    from orchestrator import sdk

    found = sdk.attach(run, cluster).status()
    seconds = (found.ended_at or time.time()) - found.submitted_at
    if json:
        print_json({**found.model_dump(mode="json"), "seconds": round(seconds, 3)})
        return
    rows = [("run", found.run_id), ("state", f"{found.state}{f' ({found.reason})' if found.reason else ''}")]
    if found.message:
        rows.append(("message", found.message))
    rows += [
        ("step", f"{found.step}/{found.total_steps}"),
        ("took" if found.state.is_final else "for", duration(seconds)),
        ("launch", str(found.launch)),
        ("attempt", str(found.attempt)),
    ]
    if found.best:
        best = found.best
        rows.append(("best", f"{best.metric} {best.value:.6g} at step {best.step}"))
    rows += [(name, f"{value:.6g}") for name, value in sorted(found.metrics.items())]
    rows += sorted(found.urls.items())
    rows += [("what happened", f"trainwright logs {run}"), ("its curves", "trainwright ui")]
    if found.best:
        rows.append(("its best model", f"trainwright export {run} --best"))
    if found.state.is_final and found.state != "succeeded":
        rows.append(("go on", f"trainwright resume {run}"))
    for name, text in rows:
        say(f"{name:<24} {text}")
