"""What is checked on a running Ray cluster: from here, and by a probe that runs as a job there."""

from __future__ import annotations

import json
from collections.abc import Iterator

from orchestrator.clusters.doctor.checks import (
    Check,
    check_clock,
    check_mlflow,
    check_storage,
    failed,
    mlflow_uri,
    passed,
    warned,
)
from orchestrator.clusters.doctor.nodes import probe_command, probe_to_checks
from orchestrator.clusters.doctor.probe import MARK
from orchestrator.clusters.ray.api import RayClient
from orchestrator.clusters.ray.cluster import RayJobsCluster
from orchestrator.clusters.shared.run_records import is_reachable_from_here
from orchestrator.errors import TrainwrightError
from orchestrator.spec.profile import ClusterProfile

_PROBE_SECONDS = 80.0


def ray_checks(profile: ClusterProfile) -> Iterator[Check]:
    """Address, token, versions, clock and storage from here; the rest from the nodes."""
    client = RayClient(profile)
    cluster = RayJobsCluster(profile, client)
    try:
        client.list()  # asks for the token, which the version does not everywhere
        found = client.versions()
        yield passed(
            "reachable", f"Ray {found['ray']}, Python {found['python'] or 'unknown'} at {profile.address}"
        )
        client.check_versions()
        yield check_clock(client.clock_ahead_seconds(), "the head's clock")
    except TrainwrightError as error:
        yield failed("reachable", str(error), "the checks that come after it were left out")
        return
    if is_reachable_from_here(str(profile.storage)):
        yield check_storage(str(profile.storage))
    else:
        yield warned(
            "storage from here",
            f"{profile.storage} is not mounted here",
            "mount it, or use s3:// or gs://: status and logs by rank then don't need a job on the cluster",
        )
    uri = mlflow_uri(profile)
    try:
        output = cluster.run_on_head(probe_command(profile, uri), run_timeout_seconds=_PROBE_SECONDS)
        line = next(line for line in output.splitlines() if line.startswith(MARK))
    except (TrainwrightError, StopIteration) as error:
        yield failed(
            "cluster", str(error) or "the probe said nothing", "look at the job's log in Ray's dashboard"
        )
        return
    yield from probe_to_checks(json.loads(line[len(MARK) :]), found)
    if not uri:
        yield check_mlflow(uri)
