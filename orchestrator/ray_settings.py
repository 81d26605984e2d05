"""What Ray is told of a launch before it is asked for anything: variables, and the size and the secret of an instance of its own."""

from __future__ import annotations

import math
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from orchestrator.gpus import free_gpus
from orchestrator.planning.plan import Plan
from orchestrator.private import new_folder
from orchestrator.recovery.hangs import PATIENCE
from orchestrator.spec.data import PipelineSource

DATA_CPUS = 1
"""Logical CPUs of a private Ray instance beside those of the workers: reading must never wait for training."""


def seconds_between_polls(workers: int) -> float:
    """How often Ray Train's controller asks its workers. At its default of 2 s it forgets what they said last before
    they died. One look costs it a quarter to a third of a millisecond of CPU a worker: from 140 workers on it looks
    less often, so that it never takes more than a quarter of a core.
    """
    return max(0.2, workers * 1.4e-3)


def environment_of(plan: Plan) -> dict[str, str]:
    """What Ray reads from the environment, all in one place; it passes them on to the controller and the workers."""
    recovery = plan.job.recovery
    return {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": f"{seconds_between_polls(plan.world_size):g}",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(int(recovery.worker_start_timeout)),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(int(PATIENCE * recovery.hang_timeout)),
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(recovery.on_notice == "save")),
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_FR_BUFFER_SIZE": "500",
        **plan.job.environment.env,
    }


def runtime_env(plan: Plan) -> dict[str, Any]:
    """Ray's runtime environment for a private instance: the job's folder and packages. Its variables are the driver's
    already, and so those of all that it starts.
    """
    environment = plan.job.environment
    needed: dict[str, Any] = {}
    if environment.working_dir:
        folder = Path(plan.base_dir) / environment.working_dir
        if folder.is_dir():
            needed["env_vars"] = {"PYTHONPATH": str(folder)}
    if environment.pip:
        needed["pip"] = list(environment.pip)
    return needed


def makes_environments(plan: Plan) -> bool:
    """Whether tasks may have environments of their own: Ray Data's sort gives its own one, and a pipeline is sorted."""
    data = plan.job.data
    sources = data.train if isinstance(data.train, tuple) else (data.train,)
    return any(isinstance(source, PipelineSource) for source in (*sources, data.eval))


def workers_here(plan: Plan) -> int:
    """How many of the plan's workers a private instance has: as many as this machine has cores and free GPUs for, and no fewer
    than the plan asks for.
    """
    scaling = plan.job.scaling
    room = (os.cpu_count() or 1) / scaling.cpus_per_worker
    if scaling.gpus_per_worker:
        room = min(room, free_gpus() / scaling.gpus_per_worker)
    return plan.largest_within(int(room + 1e-6)) or plan.least_workers


def private_cpus(plan: Plan) -> int:
    """Logical CPUs of a private instance: the workers', and those that a read task sets aside: with fewer none would start."""
    workers = math.ceil(plan.world_size * plan.job.scaling.cpus_per_worker - 1e-6)
    return workers + max(DATA_CPUS, math.ceil(plan.job.data.reader_cpus))


def first_processes(plan: Plan) -> int:
    """Processes of Ray's that a launch needs first: the workers', the one by which they wait for each other, and one that
    reads for them.
    """
    return plan.world_size + 1 + (plan.job.data.reader == "ray")


def write_token(folder: str) -> str:
    """A fresh token in a file that only this user reads, in a new folder that only this user enters; returns its path.

    Raises InfrastructureError where the folder is there already, or others could take it over.
    """
    new_folder(Path(folder))
    path = Path(folder) / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return str(path)


def object_store_bytes_here() -> int:
    """``object_store_bytes`` of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory
    return object_store_bytes(memory, shared)


def object_store_bytes(memory: int, shared_memory: int) -> int:
    """A tenth of the machine's memory, from 256 MB to 2 GB, and no more than half of /dev/shm; never under Ray's least."""
    return max(100 * 2**20, min(2 * 10**9, max(256 * 10**6, memory // 10), shared_memory // 2))
