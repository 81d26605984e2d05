"""A network of its own for each node, as machines have: Linux network namespaces on a bridge, where we may make them.

Each node has an address, a host name and a loopback that no other node reaches. ``cut`` takes a node off the network
without a word to anybody, as a pulled cable does.
"""

import itertools
import os
import secrets
import subprocess
from pathlib import Path

_FIRST_HOST = 2

ADDRESSES: set[str] = set()
"""Of all nodes that this process has made: they are on this machine, though no socket here can be bound to them."""


class Network:
    """One bridge in this namespace, on which this process has the address ``.1``; one namespace for each node."""

    def __init__(self, folder: Path) -> None:
        self._name = f"tw{secrets.token_hex(3)}"
        self._prefix = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._nodes: dict[str, str] = {}
        self._numbers = itertools.count()
        self.address = f"{self._prefix}.1"
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def add(self, node: str) -> str:
        """A namespace for a node; returns its address, which no other node gets later."""
        number = next(self._numbers)
        address = f"{self._prefix}.{_FIRST_HOST + number}"
        namespace = f"{self._name}-{node}"
        outside = f"{self._name}v{number}"
        self._nodes[node] = outside
        ADDRESSES.add(address)
        with self._hosts.open("a") as hosts:
            hosts.write(f"{address} {node}\n")
        _ip("netns", "add", namespace)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", outside, "master", self._name, "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        return address

    def command(self, node: str, command: list[str]) -> list[str]:
        """The command line that runs a command as that node: its network, its host name, everybody's addresses."""
        script = f'mount --bind {self._hosts} /etc/hosts && hostname {node} && exec "$@"'
        return [*self.enter(node), "unshare", "--mount", "--uts", "sh", "-c", script, "sh", *command]

    def enter(self, node: str) -> list[str]:
        """What stands before a command that runs in the node's network, and else where we are."""
        return ["nsenter", f"--net=/run/netns/{self._name}-{node}"]

    def route_to_here(self, node: str) -> None:
        """Let the node send what goes to no other node to this namespace, as to a gateway."""
        _ip("-n", f"{self._name}-{node}", "route", "add", "default", "via", self.address)

    def cut(self, node: str) -> None:
        """From now on nothing that the node sends arrives, nor the other way."""
        _ip("link", "set", self._nodes[node], "down")

    def remove(self, node: str) -> None:
        """The node is no more; no matter if it never was."""
        if outside := self._nodes.pop(node, None):
            _ip("link", "del", outside, check=False)
            _ip("netns", "del", f"{self._name}-{node}", check=False)

    def close(self) -> None:
        for node in list(self._nodes):
            self.remove(node)
        _ip("link", "del", self._name, check=False)


def can_be_made(folder: Path) -> bool:
    """Whether this user, on this system, may make such a network."""
    if os.geteuid() != 0:
        return False
    try:
        network = Network(folder)
    except (OSError, subprocess.CalledProcessError):
        return False
    try:
        network.add("probe")
        subprocess.run(network.command("probe", ["true"]), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        network.close()
    return True


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)
