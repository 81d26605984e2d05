"""A launch made of a plan and sent: its RayJob and ConfigMap, neither left without the other, and its working directory."""

from __future__ import annotations

import base64
import contextlib
import shlex
from collections.abc import Sequence
from typing import Any

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.config_maps import ConfigMaps
from orchestrator.clusters.kubernetes.errors import AlreadyThereError
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.request import (
    DIGEST,
    LARGEST_CONFIG_MAP_BYTES,
    PACKAGE_IN_CONFIG_MAP,
    PLAN_KEY,
    RUN_ID,
    plan_to_config_map,
    plan_to_rayjob,
)
from orchestrator.clusters.kubernetes.status import rayjob_to_status
from orchestrator.clusters.shared.packaging import pack
from orchestrator.clusters.shared.stores import ExplainedStore
from orchestrator.errors import SpecError, TrainwrightError
from orchestrator.planning.plan import Plan
from orchestrator.records import SUBMITTED
from orchestrator.runs import RunStatus
from orchestrator.section import format_bytes
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import is_uri


def rendered(
    plan: Plan, profile: ClusterProfile, launch: int, before: RunStatus | None = None
) -> tuple[dict[str, Any], bytes | None]:
    """The RayJob and the working directory's package, if there is one. Reads the working directory, and nothing else.

    Args:
        plan: of the run.
        profile: of the cluster.
        launch: its number.
        before: the launch before it, where that ended without a driver.

    Raises:
        SpecError, ResourcesError: they can never run here.
    """
    if plan.job.environment.working_dir is None:
        return plan_to_rayjob(plan, profile, launch, None, before), None
    package = pack(plan, with_own_code=False)
    size = len(base64.b64encode(package)) + len(plan.model_dump_json())
    if size <= LARGEST_CONFIG_MAP_BYTES:
        return plan_to_rayjob(plan, profile, launch, PACKAGE_IN_CONFIG_MAP, before), package
    if not is_uri(str(profile.storage)):
        raise SpecError(
            f"environment.working_dir: its package and the plan have {format_bytes(size)}, but a ConfigMap holds"
            f" {format_bytes(LARGEST_CONFIG_MAP_BYTES)}; build the code into the image, leave files out with"
            " .trainwrightignore, or use a profile whose storage is s3:// or gs://"
        )
    place = f"{plan.storage}/{_package_name(launch)}"
    return plan_to_rayjob(plan, profile, launch, place, before), package


def send(
    server: ApiServer,
    plan: Plan,
    launch: int,
    command: Sequence[str] | None = None,
    before: RunStatus | None = None,
) -> RunStatus:
    """Let the server check the RayJob and its ConfigMap, then create both. Where a command was killed while it did so, what that
    lacks.

    Args:
        server: of the cluster.
        plan: of the run.
        launch: its number.
        command: in the driver's place.
        before: the launch before it, where that ended without a driver.

    Raises:
        SpecError: the server, or a ConfigMap's size, does not allow it, or another RayJob has its name.
        ResourcesError, InfrastructureError: as ``ApiServer``.
    """
    profile, rayjobs, config_maps = server.profile, RayJobs(server), ConfigMaps(server)
    body, package = rendered(plan, profile, launch, before)
    if command is not None:
        body["spec"]["entrypoint"] = shlex.join(command)
    in_config_map = PACKAGE_IN_CONFIG_MAP in body["spec"]["runtimeEnvYAML"]
    content = base64.b64encode(package).decode() if package is not None and in_config_map else None
    config_map = plan_to_config_map(plan, profile, launch, content)
    if len(config_map["data"][PLAN_KEY]) > LARGEST_CONFIG_MAP_BYTES:
        raise SpecError("the plan is larger than a ConfigMap may be; shorten the job file")
    is_new = True
    try:
        rayjobs.create(body, dry_run=True)
        with contextlib.suppress(AlreadyThereError):
            config_maps.create(config_map, dry_run=True)
        if package is not None and not in_config_map:
            ExplainedStore(plan.storage).write(_package_name(launch), package)
        rayjob = rayjobs.create(body)
    except AlreadyThereError:
        is_new = False
        rayjob = rayjobs.get(body["metadata"]["name"])
        _refuse_another(rayjob, body, profile)
    status = rayjob_to_status(rayjob, profile)
    config_map["metadata"]["ownerReferences"] = [_owner(rayjob)]
    config_map["data"][SUBMITTED] = str(status.submitted_at)
    try:
        with contextlib.suppress(AlreadyThereError):
            config_maps.create(config_map)
    except TrainwrightError:
        if is_new:
            rayjobs.delete(body["metadata"]["name"])
        raise
    return status


def _refuse_another(rayjob: dict[str, Any], body: dict[str, Any], profile: ClusterProfile) -> None:
    """Raises SpecError where the RayJob that has the name already is not this one."""
    notes = rayjob["metadata"].get("annotations") or {}
    if any(notes.get(key) != body["metadata"]["annotations"][key] for key in (RUN_ID, DIGEST)):
        raise SpecError(
            f"cluster {profile.name}: namespace {profile.kubernetes.namespace} has another RayJob named"
            f" {body['metadata']['name']}; submit again for a fresh id"
        )


def _package_name(launch: int) -> str:
    return f"launches/{launch}/working-dir.zip"


def _owner(rayjob: dict[str, Any]) -> dict[str, Any]:
    metadata = rayjob["metadata"]
    return {
        "apiVersion": rayjob["apiVersion"],
        "kind": rayjob["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": False,
    }
