"""Plan -> the command of its driver on this machine, and where a launch's files are. Pure but for counting GPUs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.clusters.shared.driver_command import driver_command
from orchestrator.errors import ResourcesError
from orchestrator.planning.plan import Plan


def plan_to_process(plan: Plan, launch: int, driver: Sequence[str]) -> dict[str, Any]:
    """Command and folder of a launch's driver. Raises ResourcesError where this machine has no such GPUs."""
    gpus = plan.world_size * plan.job.scaling.gpus_per_worker
    if gpus and (have := gpus_of_this_machine()) < gpus:
        raise ResourcesError(f"{gpus} GPUs are asked for, but this machine has {have}")
    plan_file = str(Path(plan.storage) / plan_name(launch))
    command = driver_command(plan_file, launch, python=sys.executable, driver=driver)
    return {"command": [*command, "--start-ray", str(ray_dir(plan.run_id, launch))], "cwd": plan.base_dir}


def plan_name(launch: int) -> str:
    """Where a launch's plan is in the run's folder; the first one's marks the folder as a run."""
    return "plan.json" if launch == 1 else f"launches/{launch}/plan.json"


def ray_dir(run_id: str, launch: int) -> Path:
    """Folder of a launch's Ray: short, because Ray puts Unix sockets below it, whose paths may have 107 characters."""
    return Path(tempfile.gettempdir()) / f"tw-{os.getuid()}" / f"{run_id[-8:]}-{launch}"


def gpus_of_this_machine() -> int:
    """NVIDIA GPUs of this machine."""
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.glob("*"))) if folder.is_dir() else 0
