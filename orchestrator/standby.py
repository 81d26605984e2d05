"""Processes that wait on a node for a group's next start: what a worker imports is loaded in them, and nothing else has happened.

Ray starts a process for each worker and ends it with the worker. Here it is asked in advance for those of the next start, with the
environment of these, since it gives a worker only a process with its own. Nothing has run in a process that waits, no code
of the job's and nothing on a GPU, so a restart begins as a first start does. They end with the run's job, as Ray sees it.

Seam: the raylet's ``PrestartWorkers``, and the hook that new processes call; covered by a test with real nodes, the Ray minor is held.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
from pathlib import Path

import ray
from ray._private import worker as rays_worker

from orchestrator.planning.plan import Plan

logger = logging.getLogger("orchestrator")

_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""As ``ray._private.ray_constants`` names it; Ray reads ``worker_process_setup_hook`` of a whole job's environment only."""
_THREADS = "TRAINWRIGHT_WORKER_THREADS"
_LOADED = "orchestrator.worker"
_DEEPSPEED = "TRAINWRIGHT_WORKER_DEEPSPEED"
"""For which kind of device a worker's DeepSpeed is; empty where it needs none."""
_ENDLESSLY = 10**8
_ANSWER_SECONDS = 10.0


def variables(plan: Plan) -> dict[str, str]:
    """Of the environment in which a worker's processes may wait."""
    scaling = plan.job.scaling
    device = "cuda" if scaling.gpus_per_worker else "cpu"
    return {
        _HOOK: f"{__name__}.load_if_asked",
        _THREADS: str(max(1, math.floor(scaling.cpus_per_worker))),
        _DEEPSPEED: device if plan.job.strategy.kind == "zero" else "",
    }


def ask_for_loaded(processes: int) -> None:
    """Have so many wait on this process's node, with its environment, and load what a worker imports."""
    slips = [_folder() / f"{_prefix()}{os.getpid()}-{number}" for number in range(processes)]
    for slip in slips:
        slip.touch()
    if not ask_for(processes):
        for slip in slips:
            slip.unlink(missing_ok=True)


def ask_for(processes: int) -> bool:
    """Have so many wait on this process's node, with its environment. What fails costs a restart some seconds, and no more.

    Returns:
        Whether they come.

    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import (
        common_pb2,
        node_manager_pb2,
        node_manager_pb2_grpc,
        runtime_environment_pb2,
    )

    here, node = ray.get_runtime_context(), rays_worker.global_worker.node
    request = node_manager_pb2.PrestartWorkersRequest(
        language=common_pb2.PYTHON,
        job_id=bytes.fromhex(here.get_job_id()),
        runtime_env_info=runtime_environment_pb2.RuntimeEnvInfo(
            serialized_runtime_env=here.get_runtime_env_string()
        ),
        keep_alive_duration_secs=_ENDLESSLY,
        num_workers=processes,
    )
    try:
        with init_grpc_channel(f"{node.node_ip_address}:{node.node_manager_port}") as channel:
            raylet = node_manager_pb2_grpc.NodeManagerServiceStub(channel)
            raylet.PrestartWorkers(request, timeout=_ANSWER_SECONDS)
    except grpc.RpcError as error:
        logger.warning("no process waits for a restart on this node: %s", error)
        return False
    return True


def load_if_asked() -> None:
    """In each process that Ray starts with ``variables``, before it has anything to do: load what a worker imports, if it is one
    of those that were asked for, and neither a first worker nor what a worker starts.
    """
    if not _takes_a_slip():
        return
    # Ray sets this once it knows what a process is for, which is too late for a library that has been loaded by then
    os.environ.setdefault("OMP_NUM_THREADS", os.environ[_THREADS])
    # torch would look at all GPUs by CUDA, and see those even when the process is given one
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    with contextlib.suppress(Exception):  # fails again where the worker imports it, and is told there
        importlib.import_module(_LOADED)
        if device := os.environ[_DEEPSPEED]:
            from orchestrator.strategies.zero import load_deepspeed

            load_deepspeed(device)
    del os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]


def _takes_a_slip() -> bool:
    """Whether one of those that ``ask_for_loaded`` has left on this node is this process's now."""
    for slip in _folder().glob(f"{_prefix()}*"):
        with contextlib.suppress(FileNotFoundError):
            slip.unlink()
            return True
    return False


def _folder() -> Path:
    """Ray's own on this node."""
    return Path(rays_worker.global_worker.node.get_session_dir_path())


def _prefix() -> str:
    here = ray.get_runtime_context()
    return f"trainwright-{here.get_job_id()}-{here.get_node_id()}-"
