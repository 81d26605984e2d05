"""A Kubernetes cluster of processes of this machine, kept until Ctrl-C, to try commands on by hand: ``make kube-rig``.

Where ``KUBEBUILDER_ASSETS`` has KubeRay's operator and pods can be made, runs train on it; else it is an API server with
its controllers, and no node. All of it is one process namespace: whatever ends this, Ctrl-C or a kill, ends every pod.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import control_plane as control_planes
import kuberay


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


def main() -> None:
    """Start it, say how to reach it, and wait."""
    if reason := control_planes.missing():
        sys.exit(reason)
    if os.geteuid() == 0 and os.getpid() != 1:
        alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp(alone[0], [*alone, sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="trainwright-rig-") as name:
        folder = Path(name)
        reason = kuberay.missing(folder)
        print("starting, a minute or so", flush=True)
        with _without_nodes(folder, reason) if reason else _with_kuberay(folder) as lines:
            print(*lines, "Ctrl-C ends it", sep="\n", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


if __name__ == "__main__":
    main()
