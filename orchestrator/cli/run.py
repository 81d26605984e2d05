from __future__ import annotations

import sys

from orchestrator.cli.options import AsJson, ClusterName, JobFile, Overrides, say


def run(job: JobFile, cluster: ClusterName = "local", set_: Overrides = None, json: AsJson = False) -> None:
    """Submit a job and follow it: one live view, then a summary. Ctrl-C stops it gracefully, twice at once; a closed
    terminal ends only the view. With --json its events as they come, a line each, and its status at the end.
    """
    from orchestrator import sdk
    from orchestrator.cli.follow import follow
    from orchestrator.cli.plan import describe, warnings
    from orchestrator.spec.load import load_profile

    profile = load_profile(cluster)
    made = sdk.make_plan(job, profile, overrides=set_ or ())
    if not json:
        for line in [*describe(made), *warnings(made, profile)]:
            say(line)
        say()
    sys.exit(follow(sdk.submit(made, cluster), json=json))
