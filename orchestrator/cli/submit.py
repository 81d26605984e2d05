from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterName, JobFile, Overrides, print_json, say

GivenId = Annotated[
    str | None,
    typer.Option(
        "--id",
        help="The run's id: submitting the same id again starts nothing. Default: a fresh one.",
        metavar="RUN",
    ),
]


def submit(
    job: JobFile,
    cluster: ClusterName = "local",
    set_: Overrides = None,
    id_: GivenId = None,
    json: AsJson = False,
) -> None:
    """Start a run on a cluster and return at once."""
    from orchestrator import sdk
    from orchestrator.cli.plan import describe, warnings
    from orchestrator.spec.load import load_profile

    profile = load_profile(cluster)
    made = sdk.make_plan(job, profile, overrides=set_ or (), run_id=id_)
    if not json:
        for line in [*describe(made), *warnings(made, profile)]:
            say(line)
    run = sdk.submit(made, cluster)
    if json:
        print_json(run.status().model_dump(mode="json"))
        return
    say(f"submitted {run.id}")
    say(f"  trainwright logs {run.id} --follow    trainwright status {run.id}    trainwright stop {run.id}")
