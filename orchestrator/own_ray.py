"""A Ray instance of one run's own on this machine, with no process that the run has no use for.

By itself Ray starts an autoscaler, a dashboard's server and agent and an agent of runtime environments with each instance:
four Python processes, of which two must be up before the first worker may start. Here nothing scales or is looked at
through a dashboard, and environments are made only for jobs that bring packages, a folder or a pipeline of Ray Data.

Seam: ``ray._private.node`` and ``services``; covered by the integration tests, the Ray minor is held.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.resource_isolation_config import ResourceIsolationConfig
from ray._raylet import (  # type: ignore[attr-defined]
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    RUNTIME_ENV_AGENT_PORT_NAME,
    persist_port,
)

from orchestrator import stand_in_agent

_LONGEST_WAIT_MS = 60_000
"""How long a process waits for its first task. Ray would end it after a second, and start another for the next task."""

_WAITING = "--num_prestart_python_workers="
_NOWHERE = 1
"""A port on which nothing listens, where Ray must have one."""


class OwnRay:
    """A running instance, to which this process is connected until ``close``."""

    def __init__(
        self,
        folder: str,
        *,
        cpus: int,
        processes: int,
        gpus: int,
        object_store_bytes: int,
        runtime_env: Mapping[str, Any],
        has_agent: bool,
    ) -> None:
        """
        Args:
            folder: for its files.
            cpus: of the workers and of what reads for them.
            processes: that are started at once, and wait for tasks.
            gpus: of the workers.
            object_store_bytes: memory that its processes share.
            runtime_env: that all workers run in; empty for that of this process.
            has_agent: whether tasks may have environments of their own.

        Raises whatever Ray raises where it does not start; nothing of it is left then.
        """
        is_ready_made = not runtime_env  # processes that wait already have the environment of the first task
        parameters = RayParams(
            node_ip_address="127.0.0.1",
            num_cpus=cpus,
            num_gpus=gpus or None,
            object_store_memory=object_store_bytes,
            temp_dir=folder,
            include_dashboard=False,
            resource_isolation_config=ResourceIsolationConfig(),
            _system_config={
                "worker_maximum_startup_concurrency": processes,
                "idle_worker_killing_time_threshold_ms": _LONGEST_WAIT_MS,
                "prestart_worker_first_driver": is_ready_made,
            },
        )
        kind = _LeanNode if has_agent or runtime_env else _LeanerNode
        with _commands_changed(partial(_with_processes, processes)):
            self._node = kind(parameters, head=True, shutdown_at_exit=False, spawn_reaper=True)
        try:
            ray.init(
                address=self._node.gcs_address,
                logging_level="WARNING",
                log_to_driver=True,
                runtime_env=dict(runtime_env) or None,
                _node_ip_address="127.0.0.1",
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all its processes."""
        ray.shutdown()
        self._node.kill_all_processes(check_alive=False, allow_graceful=True)


class _LeanNode(Node):
    """Without an autoscaler and without a dashboard's server and agent."""

    idle_agents: tuple[str, ...] = ("--dashboard_agent_command=",)
    ports_of_nobody: tuple[tuple[str, int], ...] = (
        (METRICS_AGENT_PORT_NAME, -1),
        (METRICS_EXPORT_PORT_NAME, -1),
        (DASHBOARD_AGENT_LISTEN_PORT_NAME, -1),
    )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Raises whatever Ray raises where it does not start; its processes are gone then."""
        try:
            super().__init__(*arguments, **named)
        except BaseException:
            self.kill_all_processes(check_alive=False)
            raise

    def start_monitor(self) -> None:
        """Nothing scales."""

    def start_api_server(self, **_: Any) -> None:
        """Nobody looks."""

    def start_raylet(self, *arguments: Any, **named: Any) -> None:
        """With stand-ins for the agents: Ray insists on running them and on knowing their ports."""
        for name, port in self.ports_of_nobody:
            persist_port(self._session_dir, self._node_id, name, port)
        with _commands_changed(self._with_idle_agents):
            super().start_raylet(*arguments, **named)

    def _with_idle_agents(self, command: Sequence[str]) -> list[str]:
        idle = subprocess.list2cmdline(
            [sys.executable, "-I", "-S", stand_in_agent.__file__, str(os.getpid())]
        )
        return [
            next((agent + idle for agent in self.idle_agents if word.startswith(agent)), word)
            for word in command
        ]


class _LeanerNode(_LeanNode):
    """Without an agent of runtime environments as well."""

    idle_agents: tuple[str, ...] = (*_LeanNode.idle_agents, "--runtime_env_agent_command=")
    ports_of_nobody: tuple[tuple[str, int], ...] = (
        *_LeanNode.ports_of_nobody,
        (RUNTIME_ENV_AGENT_PORT_NAME, _NOWHERE),
    )


def _with_processes(count: int, command: Sequence[str]) -> list[str]:
    """As many wait, where by itself Ray starts one for each CPU."""
    return [f"{_WAITING}{count}" if word.startswith(_WAITING) else word for word in command]


@contextmanager
def _commands_changed(change: Callable[[Sequence[str]], list[str]]) -> Iterator[None]:
    """What Ray starts meanwhile is started by a changed command."""
    start = services.start_ray_process
    services.start_ray_process = lambda command, *arguments, **named: start(
        change(command), *arguments, **named
    )
    try:
        yield
    finally:
        services.start_ray_process = start
