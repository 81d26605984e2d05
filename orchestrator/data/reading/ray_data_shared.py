"""Ray Data in a Ray cluster that scales: what of it outlives a run stays where no node is kept for it.

The first process that reads makes an actor for numbers that a dashboard shows, on its own node and for as long as the cluster
lives. A node with an actor is never idle, so that the autoscaler would keep one worker's, with its GPUs, after the run.

Seam: ``ray.data._internal``; covered by a test that looks at where the actor is, the Ray minor is held.
"""

from __future__ import annotations

from ray.data._internal.stats import get_or_create_stats_actor


def keep_statistics_here() -> None:
    """Make that actor on this process' node, which for a driver is the head's, before a worker does."""
    get_or_create_stats_actor()
