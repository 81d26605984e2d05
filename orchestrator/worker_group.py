"""How the workers of a group find each other: torch's store, listening only where the group is.

torch's own store listens on every interface of rank 0's machine and asks nobody who they are: whoever reaches it joins
the group. This one listens at the address that Ray knows the node by, which on one machine is loopback.

Seam: ``ray.train.torch.config``; covered by a test that looks at what a run listens on, the Ray minor is held.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from orchestrator import events

_opened: list[TCPStore] = []
"""Rank 0's store between the two calls that Ray makes in its process."""


@dataclass
class GroupConfig(TorchConfig):
    """TorchConfig with our way to meet."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See BackendConfig."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Rank 0 opens the store, then all join."""
        events.emit("stage", doing="importing torch and the job's modules")
        world_size, timeout = len(worker_group), timedelta(seconds=backend_config.timeout_s)
        address, port = worker_group.execute_single(0, open_store, timeout)
        worker_group.execute(_set_torch_distributed_env_vars)
        worker_group.execute(talk_over_ray_s_interface)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, join, address, port, rank, world_size, backend_config.backend, timeout
                )
                for rank in range(world_size)
            ]
        )


def open_store(timeout: timedelta) -> tuple[str, int]:
    """In rank 0's process: a store that listens at the node's address only; returns address and port."""
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
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    store = (
        _opened.pop()
        if rank == 0
        else TCPStore(address, port, is_master=False, timeout=timeout, wait_for_workers=False)
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
