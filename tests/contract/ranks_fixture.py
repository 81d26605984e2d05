"""Processes joined by gloo, started once for all tests of a session and replaced where a test broke them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.strategies.ranks import Ranks


class Pools:
    def __init__(self) -> None:
        self._pools: dict[int, Ranks] = {}

    def run(self, world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        pool = self._pools.setdefault(world_size, self._start(world_size))
        try:
            return pool.run(function, *arguments)
        except Exception:
            self._pools.pop(world_size).close()
            raise

    def _start(self, world_size: int) -> Ranks:
        if world_size in self._pools:
            return self._pools[world_size]
        return Ranks(world_size, timeout_seconds=240, preload=["deepspeed"])

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


@pytest.fixture(scope="session")
def pools() -> Iterator[Pools]:
    os.environ["DS_ACCELERATOR"] = "cpu"  # for the import that all processes share
    made = Pools()
    yield made
    made.close()
