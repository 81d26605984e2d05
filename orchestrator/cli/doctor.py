from __future__ import annotations

import sys

from orchestrator.cli.options import AsJson, ClusterName, print_json, say


def doctor(cluster: ClusterName = "local", json: AsJson = False) -> None:
    """Check that a cluster can run jobs: versions, access, nodes, storage, MLflow, clocks; each with its mend."""
    from orchestrator.clusters.doctor.examine import doctor as checks_of
    from orchestrator.spec.load import load_profile

    checks = []
    for check in checks_of(load_profile(cluster)):
        checks.append(check)
        if not json:
            say(f"{check.outcome:<5} {check.name:<20} {check.message}")
            if check.mend:
                say(f"{'':<5} {'':<20} → {check.mend}")
    if json:
        print_json([check.model_dump(mode="json") for check in checks])
    if any(check.outcome == "fail" for check in checks):
        sys.exit(1)
