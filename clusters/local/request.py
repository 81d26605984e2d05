"""Plan -> the command of its driver on this machine, and where a launch's files are. Pure but for counting GPUs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.clusters.shared.capacity import refuse_spares
from orchestrator.clusters.shared.driver_command import driver_command
from orchestrator.errors import ResourcesError
from orchestrator.gpus import visible_gpus
from orchestrator.planning.plan import Plan
from orchestrator.private import ray_folder
from orchestrator.records import plan_name

_IDENTITY_CHARACTERS = 12


def plan_to_process(plan: Plan, launch: int, driver: Sequence[str]) -> dict[str, Any]:
    """Command and folders of a launch's driver.

    Raises:
        ResourcesError: this machine has no such GPUs.
        SpecError: spare workers are asked for.
        InfrastructureError: there is no folder for Ray's files.

    """
    refuse_spares(plan, "this machine has no other node to hold a worker on; leave it out here")
    gpus = plan.least_workers * plan.job.scaling.gpus_per_worker
    if gpus and (have := len(visible_gpus())) < gpus:
        raise ResourcesError(f"{gpus} GPUs are asked for, but this machine has {have}")
    plan_file = str(Path(plan.storage) / plan_name(launch))
    command = driver_command(plan_file, launch, python=sys.executable, driver=driver)
    folder = ray_dir(plan, launch)
    return {"command": [*command, "--start-ray", folder], "cwd": plan.base_dir, "ray_dir": folder}


def ray_dir(plan: Plan, launch: int) -> str:
    """Folder of a launch's Ray: of this launch of this run in this home alone."""
    identity = hashlib.sha256(f"{plan.storage}\n{launch}".encode()).hexdigest()
    return str(ray_folder(identity[:_IDENTITY_CHARACTERS]))
