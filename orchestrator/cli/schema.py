from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, print_json


def schema(
    profile: Annotated[
        bool, typer.Option("--profile", help="The schema of cluster profiles instead.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Print the JSON Schema of the job file, for editors. It is JSON with or without --json."""
    from orchestrator.spec.job import JobSpec
    from orchestrator.spec.profile import ClusterProfile
    from orchestrator.spec.schema import json_schema

    print_json(json_schema(ClusterProfile if profile else JobSpec))
