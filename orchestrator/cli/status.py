from __future__ import annotations

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def status(run: RunId, cluster: ClusterOfRun = None, json: AsJson = False) -> None:
    """Show how a run stands, and why it ended."""
    from orchestrator import sdk

    found = sdk.attach(run, cluster).status()
    if json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [("run", found.run_id), ("state", f"{found.state}{f' ({found.reason})' if found.reason else ''}")]
    if found.message:
        rows.append(("message", found.message))
    rows += [
        ("step", f"{found.step}/{found.total_steps}"),
        ("launch", str(found.launch)),
        ("attempt", str(found.attempt)),
    ]
    rows += [(name, f"{value:.6g}") for name, value in sorted(found.metrics.items())]
    rows += sorted(found.urls.items())
    for name, text in rows:
        say(f"{name:<24} {text}")
