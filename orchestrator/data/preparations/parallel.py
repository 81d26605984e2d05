"""A function of each table, in order: here, or on the cluster where there is one and much to do."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")
_FEW, _AHEAD = 16, 32
"""So many tables (of about a megabyte) are not worth a task each; so many tasks are under way at once."""


def map_in_order(function: Callable[..., T], tables: Iterable[pa.Table], *arguments: Any) -> Iterator[T]:
    """``function(table, *arguments)`` of each table, in their order, as Ray tasks where Ray is up and there are many.

    The function must be one that pickles: of a module, not of another function.
    """
    rest = iter(tables)
    few = list(itertools.islice(rest, _FEW + 1))
    if len(few) <= _FEW or not _ray_is_up():
        for table in itertools.chain(few, rest):
            yield function(table, *arguments)
        return
    import ray

    # a node smaller than a core would never be given a task that asks for one
    cores = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    task, references = (
        ray.remote(num_cpus=min(1, cores), max_retries=3)(function),
        [ray.put(argument) for argument in arguments],
    )
    pending: deque[Any] = deque()
    for table in itertools.chain(few, rest):
        pending.append(task.remote(table, *references))
        if len(pending) >= _AHEAD:
            yield ray.get(pending.popleft())
    while pending:
        yield ray.get(pending.popleft())


def _ray_is_up() -> bool:
    """Without importing Ray where nobody has: a laptop that only plans."""
    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized())
