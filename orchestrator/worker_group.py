"""How the workers of a group find each other: torch's store, listening only where the group is.

torch's own store listens on every interface of rank 0's machine and asks nobody who they are: whoever reaches it joins
the group. This one listens at the address that Ray knows the node by, which on one machine is loopback.

Only the workers import torch: the driver, which holds Ray Train's controller, has no use for it.

Seam: ``ray.train.torch.config``; covered by a test that looks at what a run listens on, the Ray minor is held.
"""

from __future__ import annotations

import contextlib
import os
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train.backend import Backend, BackendConfig

from orchestrator import events
from orchestrator.recovery.notice import listen_for_sigterm

_SHUTDOWN_SECONDS = 30.0
"""How long the workers may take to leave their group; then they are ended as they are."""

_opened: list[Any] = []
"""Rank 0's store between the two calls that Ray makes in its process."""


@dataclass
class GroupConfig(BackendConfig):
    """As Ray's TorchConfig, with our way to meet."""

    backend: str
    """By which libraries they talk, as torch names them."""
    timeout_seconds: float
    """How long one waits for the others."""
    hears_sigterm: bool
    """Whether SIGTERM to a worker is a notice, and does not end it."""

    @property
    def backend_cls(self) -> type[Backend]:
        """See BackendConfig."""
        return _Backend

    @property
    def train_func_context(self) -> type[AbstractContextManager[None]]:
        """See BackendConfig."""
        return _OnItsDevice


class _OnItsDevice(AbstractContextManager[None]):
    """In each worker's process: its own GPU is the one that is meant where none is named."""

    def __enter__(self) -> None:
        from ray.train.torch.config import TorchConfigContextManager

        TorchConfigContextManager().__enter__()

    def __exit__(self, *error: object) -> None:
        """Nothing to undo."""


class _Backend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Rank 0 opens the store, then all join."""
        assert isinstance(backend_config, GroupConfig)
        events.emit("stage", doing="importing torch and the job's modules")
        world_size, timeout = len(worker_group), timedelta(seconds=backend_config.timeout_seconds)
        address, port = worker_group.execute_single(0, open_store, timeout)
        worker_group.execute(set_variables)
        if backend_config.hears_sigterm:
            worker_group.execute(listen_for_sigterm)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, join, address, port, rank, world_size, backend_config.backend, timeout
                )
                for rank in range(world_size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """All that are there leave."""
        with contextlib.suppress(GetTimeoutError, RayActorError):
            ray.get(worker_group.execute_async(leave, len(worker_group)), timeout=_SHUTDOWN_SECONDS)


def open_store(timeout: timedelta) -> tuple[str, int]:
    """In rank 0's process: a store that listens at the node's address only; returns address and port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family, backlog=2048)
    port = listener.getsockname()[1]
    # the store closes the socket, which this object must not do as well
    descriptor = listener.detach()
    _opened[:] = [
        TCPStore(
            address,
            port,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=descriptor,
        )
    ]
    return address, port


def set_variables() -> None:
    """In each worker's process: who it is among the workers, as torch's libraries ask for it, and how they talk."""
    from ray.train.torch.config import _set_torch_distributed_env_vars

    _set_torch_distributed_env_vars()
    talk_over_ray_s_interface()


def talk_over_ray_s_interface() -> None:
    """In each worker's process: gloo and NCCL meet over the interface that has the address Ray knows the node by.

    By themselves gloo takes what the host's name resolves to (127.0.1.1 on Debian) and NCCL the first interface it finds.
    What the job's or the profile's environment says stays.
    """
    import psutil

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def join(address: str, port: int, rank: int, world_size: int, backend: str, timeout: timedelta) -> None:
    """In each worker's process: the process group over rank 0's store."""
    import torch.distributed as dist
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    store = (
        _opened.pop()
        if rank == 0
        else TCPStore(address, port, is_master=False, timeout=timeout, wait_for_workers=False)
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def leave(world_size: int) -> None:
    """In each worker's process: end the process group."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=world_size > 1)
