"""What a launch waited for before its driver's first word, and the pod that the driver is in, as its own surroundings tell it: nobody
has to ask meanwhile, and no right to look at pods is needed.

In a pod the kubelet writes the ConfigMap's files before it pulls the image, and the container's first process is number 1 there.
Seam: the kubelet's AtomicWriter links each file of a ConfigMap once, and leaves the link where the content changes.

Ray keeps of a job when it was posted; where KubeRay posts it, all pods of the run are there by then.
Seam: ``ray.dashboard.modules.job.common.JobInfoStorageClient`` and Ray's own client of its head; a test on a real cluster covers
them, the Ray minor is held.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator import events
from orchestrator.ledger import ENVIRONMENT, IMAGE, NODES, QUEUE
from orchestrator.records import SUBMITTED
from orchestrator.runs import Began, RunStatus
from orchestrator.storage.faults import first_line

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 10.0

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
    """In a driver on a cluster, before all else, so that one that fails at once has told it: all of it, as the event ``waited``.
    Where the head does not answer, what the pod knows.

    Args:
        pod: the driver's.

    """
    posted = began = 0.0
    try:
        if (name := _metadata().get("job_submission_id")) and (address := os.environ.get("RAY_ADDRESS")):
            head = _head(address)
            posted, began = _job_posted(head, name), _head_began(head)
    except Exception as error:  # joining it comes next, and says more
        log.warning("since when Ray had this job is not known: %s", first_line(error))
    told = [*pod.waited, (NODES, began), (ENVIRONMENT, posted)] if pod else [(ENVIRONMENT, posted)]
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


def _head(address: str) -> Any:
    """A client of the head that ends with whoever holds it, without being a part of the cluster."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=address)


def _job_posted(head: Any, name: str) -> float:
    kept = head.internal_kv_get(
        f"_ray_internal_job_info_{name}".encode(), namespace=b"job", timeout=_ANSWER_SECONDS
    )
    return float(json.loads(kept)["start_time"]) / 1000


def _head_began(head: Any) -> float:
    """When the head's Ray was there, so that pods could join it."""
    nodes = head.get_all_node_info(timeout=_ANSWER_SECONDS).values()
    return max((node.start_time_ms / 1000 for node in nodes if node.is_head_node), default=0.0)
