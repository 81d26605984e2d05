"""Ray Data in a Ray instance of one run's own, without the processes that nobody there asks anything.

By itself Ray Data starts a process for numbers that a dashboard shows, and one that shares a cluster's nodes among all
who use them and asks an autoscaler for more. An own instance has neither dashboard nor autoscaler nor other users.

Seam: ``ray.data._internal``; covered by a test that looks at what a run starts, the Ray minor is held.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.data._internal.cluster_autoscaler.base_cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.interfaces.execution_options import ExecutionResources
from ray.data._internal.stats import _StatsManager

_TOLD = ("update_execution_metrics", "update_iteration_metrics", "register_dataset_to_stats_actor")


def be_alone() -> None:
    """For all datasets of this process."""
    for name in _TOLD:
        setattr(_StatsManager, name, staticmethod(_tell_nobody))
    # Ray's own module names it so; assigned by name, since type checkers hold modules to be what they import
    setattr(streaming_executor, "create_cluster_autoscaler", _as_it_is)  # noqa: B010


def _tell_nobody(*_: Any, **__: Any) -> None:
    """No process to tell."""


def _as_it_is(*_: Any, **__: Any) -> ClusterAutoscaler:
    return _NeverScales()


class _NeverScales(ClusterAutoscaler):
    """The instance as it was started."""

    def __init__(self) -> None:
        self._total = ExecutionResources.from_resource_dict(ray.cluster_resources())

    def try_trigger_scaling(self) -> None:
        """Nothing to scale."""

    def on_executor_shutdown(self) -> None:
        """Nothing was asked for."""

    def get_total_resources(self) -> ExecutionResources:
        """All of it: what the workers have taken, Ray itself gives to no task."""
        return self._total
