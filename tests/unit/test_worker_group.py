"""Over which interface a group's libraries talk, and who reaches its store."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest

from orchestrator import worker_group


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"lo": ["127.0.0.1"], "eth0": ["192.0.2.7"], "ib0": ["198.51.100.7", "fe80::1%ib0"]}
    monkeypatch.setattr(
        psutil,
        "net_if_addrs",
        lambda: {
            name: [SimpleNamespace(address=each) for each in all_of] for name, all_of in addresses.items()
        },
    )
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("address", "name"), [("192.0.2.7", "eth0"), ("fe80::1", "ib0")])
def test_it_is_the_one_that_ray_knows_the_node_by(
    address: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_group.ray.util, "get_node_ip_address", lambda: address)
    worker_group.talk_over_ray_s_interface()
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == (name, name)


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setattr(worker_group.ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    worker_group.talk_over_ray_s_interface()
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("eth0", "ib0")


def test_a_stranger_at_another_address_does_not_reach_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_group.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    address, port = worker_group.open_store(timedelta(seconds=5))
    try:
        with socket.create_connection((address, port), timeout=5):
            pass  # the group's own address answers
        # what listens on all interfaces answers here too
        with pytest.raises(OSError, match=r"refused|assign|unreachable|timed out"):
            socket.create_connection(("127.0.0.2", port), timeout=5)
    finally:
        worker_group._opened.clear()
