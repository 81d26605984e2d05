"""A Kubernetes cluster of processes of this machine, kept until Ctrl-C, to try commands on by hand: ``make kube-rig``.

Where ``KUBEBUILDER_ASSETS`` has KubeRay's operator and pods can be made, runs train on it; else it is an API server with
its controllers, and no node. All of it is one process namespace: whatever ends this, Ctrl-C or a kill, ends every pod.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import control_plane as control_planes
import kuberay

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, an end that is asked for, a closed terminal."""
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def _with_kuberay(folder: Path) -> Iterator[list[str]]:
    with kuberay.running(folder) as made:
        profile = made.profile_file("rig")
        yield [
            "Kubernetes with KubeRay's operator and two nodes, whose pods are processes",
            f"  export KUBECONFIG={made.plane.admin_kubeconfig}",
            f"  kubectl get nodes,rayjobs,pods -n {kuberay.NAMESPACE}",
            f"as a person who may submit, and no more; what runs write lies in {made.storage}:",
            f"  export KUBECONFIG={made.environment['KUBECONFIG']}",
            f"  trainwright submit job.yaml --cluster {profile}",
        ]


@contextlib.contextmanager
def _without_nodes(folder: Path, reason: str) -> Iterator[list[str]]:
    with control_planes.running(folder / "control-plane") as plane:
        yield [
            f"Kubernetes without nodes, on which nothing runs: {reason}",
            f"  export KUBECONFIG={plane.admin_kubeconfig}",
        ]


def _keep(folder: Path) -> None:
    """Start it, say how to reach it, and wait."""
    reason = kuberay.missing(folder)
    print("starting, a minute or so", flush=True)
    with _without_nodes(folder, reason) if reason else _with_kuberay(folder) as lines:
        print(*lines, "Ctrl-C ends it", sep="\n", flush=True)
        signal.pause()


def _interrupt_once(*_: object) -> None:
    """As Ctrl-C, and what follows disturbs nothing that is being removed."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_at_end_of_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def _alone() -> int:
    """This program again as the first process of a namespace, which takes all others with it, and ends when this one does."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *sys.argv]
    # in a session of its own: a terminal's signals would end unshare, and with it the inner one in the midst
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as inner:
        try:
            return inner.wait()
        except KeyboardInterrupt:
            assert inner.stdin is not None
            inner.stdin.close()  # unshare passes no signal on
            return inner.wait()


def main() -> None:
    """Keep a cluster until Ctrl-C, a kill of this process or of what started it, or a closed terminal."""
    if reason := control_planes.missing():
        sys.exit(reason)
    for number in _ENDS:
        signal.signal(number, _interrupt_once)
    if os.geteuid() == 0 and os.getpid() != 1:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        sys.exit(_alone())
    if os.getpid() == 1:
        threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    with (
        tempfile.TemporaryDirectory(prefix="trainwright-rig-") as name,
        contextlib.suppress(KeyboardInterrupt),
    ):
        _keep(Path(name))


if __name__ == "__main__":
    main()
