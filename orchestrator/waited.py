"""What a launch waited for before its driver's first word, and the pod that the driver is in, as its own surroundings tell it: nobody
has to ask meanwhile, and no right to look at pods is needed.

In a pod the kubelet writes the ConfigMap's files before it pulls the image, and the container's first process is number 1 there.
Seam: the kubelet's AtomicWriter links each file of a ConfigMap once, and leaves the link where the content changes.

Ray keeps of a job when it was posted; where KubeRay posts it, all pods of the run are there by then.
Seam: ``ray.dashboard.modules.job.common.JobInfoStorageClient``; a test on a real cluster covers it, the Ray minor is held.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from orchestrator import events
from orchestrator.ledger import ENVIRONMENT, IMAGE, NODES, QUEUE
from orchestrator.records import SUBMITTED
from orchestrator.runs import Began, RunStatus

BEFORE = "before"
"""In a Ray job's metadata: the launch before it, as JSON, where that ended without a driver."""


class Pod(NamedTuple):
    """The head's pod, as what runs in it knows it."""

    name: str
    """See ``name_of_pod``."""
    waited: tuple[Began, ...]
    """Up to the head's container."""


def of_pod(plan: Path) -> Pod | None:
    """The pod of whoever calls; None where that is in none.

    Args:
        plan: the file that the driver is given. Whoever submitted the launch to Kubernetes put beside it when that was, by the API
            server's clock.

    """
    try:
        submitted = float(plan.with_name(SUBMITTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    waited = (QUEUE, submitted), (IMAGE, plan.lstat().st_mtime), (ENVIRONMENT, _container_began())
    return Pod(name_of_pod(plan), waited)


def name_of_pod(plan: Path) -> str:
    """The moment at which its volume with the plan was made: its containers see the same one, those of the pod after it another."""
    return str(plan.lstat().st_mtime_ns)


def _container_began() -> float:
    """0 where the process is hidden."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(1).create_time())
    return 0.0


def tell(pod: Pod | None) -> None:
    """In a driver that has joined the cluster's Ray: all of it, as the event ``waited``.

    Args:
        pod: the driver's.

    """
    posted = _job_posted()
    told = [*pod.waited, (NODES, _head_began()), (ENVIRONMENT, posted)] if pod else [(ENVIRONMENT, posted)]
    if parts := [(part, at) for part, at in told if at]:
        events.emit("waited", parts=parts)


def launch_before() -> RunStatus | None:
    """The launch before this driver's, where that ended without one."""
    told = _metadata().get(BEFORE)
    return RunStatus.model_validate_json(told) if told else None


def _metadata() -> dict[str, str]:
    """Ray passes on to a job's driver with what it was posted; nothing to one that was started otherwise."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return dict(json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"])
    return {}


def _job_posted() -> float:
    """0 of a driver that no job started."""
    from ray.experimental.internal_kv import _internal_kv_get

    with contextlib.suppress(KeyError, TypeError, ValueError):
        name = _metadata()["job_submission_id"]
        kept = _internal_kv_get(f"_ray_internal_job_info_{name}", namespace="job")
        return float(json.loads(kept)["start_time"]) / 1000
    return 0.0


def _head_began() -> float:
    """When the head's Ray was there, so that pods could join it."""
    from ray._private.worker import global_worker

    nodes = global_worker.gcs_client.get_all_node_info().values()
    return max((node.start_time_ms / 1000 for node in nodes if node.is_head_node), default=0.0)
