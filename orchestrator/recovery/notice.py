"""Notice that a worker will be taken away: by Ray, of a node that is drained; by SIGTERM; by a file on its node.

Seam: Ray Train's watcher leaves its word in the worker's train context; ``ray.train.get_preemption_info`` asks an actor and
all ranks for it at each call, here the context is looked at. Covered by a test on real nodes, the Ray minor is held.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.train.v2._internal.execution.context import get_train_context

_terminations: list[float] = []
"""When this process got SIGTERM, in seconds since the epoch."""


_asks: list[str] = []
"""Why this process was asked to leave so that the group can have another size, or another head."""


def ask_to_leave(why: str) -> None:
    """In a worker's process: as a notice, but nobody is taken away."""
    _asks.append(why)


def listen_for_sigterm() -> None:
    """In a worker's main thread: SIGTERM no longer ends the process, it is a notice. Whoever sends it ends it later."""
    signal.signal(signal.SIGTERM, lambda number, frame: _terminations.append(time.time()))


class NoticeBoard:
    """Where a rank looks whether it will be taken away. A look takes microseconds and asks nobody."""

    def __init__(self, file: str) -> None:
        """
        Args:
            file: whose appearance on the node is a notice; empty for none. One that is there already is no news: the
                attempt has begun in spite of it.

        """
        self._file = Path(file) if file else None
        self._known = self._changed()

    def said(self) -> str:
        """Why this rank will be taken away, in a few words; empty where nobody says so."""
        if _terminations:
            return "its process got SIGTERM"
        if self.file_says_so:
            return f"{self._file} says so"
        info = _info_from_ray()
        return said_by_ray(info, _own_rank()) if info else ""

    @property
    def asked_to_leave(self) -> str:
        """Why the group is to start again with another size or another head; empty where this rank knows of nothing."""
        return _asks[0] if _asks else ""

    @property
    def file_says_so(self) -> bool:
        """Whether the file has appeared, or was written anew, since the attempt began."""
        return (changed := self._changed()) != self._known and changed > 0

    def _changed(self) -> int:
        """When the file was written, in nanoseconds; 0 where there is none."""
        try:
            return self._file.stat().st_mtime_ns if self._file else 0
        except OSError:
            return 0


def drain_own_node() -> None:
    """Tell Ray that this node will be taken away, as an autoscaler would: then nothing more is placed here. Where there is
    no other node nothing is told, since all goes on here for as long as it can.
    """
    if sum(node["Alive"] for node in ray.nodes()) > 1:
        here = ray.get_runtime_context()
        client = GcsClient(address=here.gcs_address)
        client.drain_node(here.get_node_id(), DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "notice file", 0)


def said_by_ray(info: Any, rank: int) -> str:
    """Of Ray Train's ``PreemptionInfo``, what it means for a rank; empty where it has none or names others only."""
    if info is None or rank not in info.preempted_ranks:
        return ""
    if info.deadline_ms is None:
        return "its node is drained"
    return f"its node is drained, until {time.strftime('%H:%M:%S', time.localtime(info.deadline_ms / 1e3))}"


def _info_from_ray() -> Any:
    """What Ray Train has heard; None in a process that is none of its workers."""
    try:
        return get_train_context().preemption_context.preemption_info
    except RuntimeError:
        return None


def _own_rank() -> int:
    return get_train_context().get_world_rank()
