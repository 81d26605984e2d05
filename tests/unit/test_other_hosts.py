"""The tests' own guard: conftest.py refuses hosts that are not this machine."""

import asyncio
import socket

import pytest


# 192.0.2.0/24 and 2001:db8::/32 are for documentation: nothing answers there
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_another_host_is_refused(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_STREAM) as stream,
        pytest.raises(PermissionError, match=f"connect to {host}: tests reach no host"),
    ):
        stream.connect((host, 80))


def test_another_host_is_refused_to_asyncio():
    with pytest.raises(PermissionError, match="tests reach no host"):
        asyncio.run(asyncio.open_connection("192.0.2.1", 80))


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
