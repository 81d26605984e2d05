"""What holds for every test: no socket of the test process leaves this machine, and a loaded one is slow, not wrong."""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import namespaces
import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def no_other_hosts() -> Iterator[None]:
    """Refuse connections to other hosts, so that a test that needs the internet fails wherever it runs.

    Processes that a test starts are not held to it: pods and nodes of the cluster tests have hosts of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _to_this_machine_only(getattr(socket.socket, name)))
        yield


def _to_this_machine_only(connect: Any) -> Any:
    @functools.wraps(connect)
    def connect_here(self: socket.socket, address: Any) -> Any:
        # connecting a datagram socket sends nothing; Ray does it to learn this machine's address
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM:
            refuse_other_hosts(str(address[0]))
        return connect(self, address)

    return connect_here


def refuse_other_hosts(host: str) -> None:
    """Raise unless ``host`` is an address of this machine, or of a network namespace that a test has made on it."""
    if host not in namespaces.ADDRESSES and not _is_this_machine(host):
        raise PermissionError(f"a test wanted to connect to {host}: tests reach no host but this machine")


@functools.cache
def _is_this_machine(host: str) -> bool:
    """Whether every address of ``host`` is a loopback address or one that a socket can be bound to."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except socket.gaierror:
        return True  # a name without an address: the connection fails with its own error
    return all(ipaddress.ip_address(str(address)).is_loopback or _can_bind(str(address)) for address in found)


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
