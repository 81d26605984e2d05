"""A pod's containers as processes: what a container engine does, by namespaces and one script of shell for each.

Each container has a file system that is this machine's with its own changes on top (overlay), its volumes, a process
namespace of its own, and, where this system has it, a memory group with its limit. The pod's containers share a
network namespace. Processes run as the user that the pod asks for, without root's rights but one: to read every file,
since this machine's Python may be below a folder that only root may enter.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from control_plane import with_this_process
from exec_stream import start

Object = dict[str, Any]

_MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
_IMAGE = {Path(path) for path in (sys.prefix, sys.base_prefix, *sys.path) if path}
"""Folders of this machine that stand for an image's: Python, its packages and this checkout."""
_UNSHARED = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child")
_IN_ITS_FOLDER = ("env", "--chdir=/tmp")


class Log:
    """What a container printed, line by line, with the time of each; it can be followed."""

    def __init__(self) -> None:
        self._lines: list[tuple[datetime.datetime, bytes]] = []
        self._changed = threading.Condition()
        self.is_closed = False

    def fill(self, stream: Any) -> None:
        """Take lines until the stream ends."""
        with stream:
            for line in stream:
                self.add(line)
        self.close()

    def add(self, line: bytes) -> None:
        with self._changed:
            self._lines.append((datetime.datetime.now(datetime.UTC), line.rstrip(b"\n") + b"\n"))
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    def lines(self) -> list[tuple[datetime.datetime, bytes]]:
        with self._changed:
            return list(self._lines)

    def wait_for_more(self, than: int, seconds: float) -> bool:
        """Whether there are more lines than so many, or it was closed, within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._lines) > than or self.is_closed, seconds)

    def last_words(self) -> str:
        """As Kubernetes takes them into a status: 80 lines or 2 KiB at most."""
        return b"".join(line for _, line in self.lines()[-80:])[-2048:].decode(errors="replace")


class Mount(NamedTuple):
    """A file or folder of this machine at a path of the container."""

    source: Path
    path: str


def of_the_image(mounts: list[Mount]) -> list[Mount]:
    """What a pod's volumes would hide of the image, e.g. by one at /tmp where this checkout lies below."""
    hidden = {
        folder
        for folder in _IMAGE
        if folder.is_dir() and any(folder.is_relative_to(mount.path) for mount in mounts)
    }
    return [Mount(folder, str(folder)) for folder in sorted(hidden)]


def make_memory_folder(path: Path, size_bytes: int) -> None:
    """A folder that is kept in memory."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)], check=True)


def remove_memory_folders(folder: Path) -> None:
    """Give back those that were made below a folder."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in mounted:
        if path.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", path], check=False)


class ContainerProcess:
    """One start of a container.

    Args:
        enter: The command line that enters the pod's network; what is run comes behind it.
        name: Unique on this machine; of the memory group.
        host_name: The pod's.
        security: The container's security context, with the pod's user.
    """

    def __init__(
        self,
        *,
        enter: list[str],
        name: str,
        host_name: str,
        command: list[str],
        environment: dict[str, str],
        mounts: list[Mount],
        security: Object,
        memory_bytes: int | None,
    ) -> None:
        self.log = Log()
        self.started_at = datetime.datetime.now(datetime.UTC)
        self._group = _memory_group(name, memory_bytes)
        self._as_its_user = _as_its_user(security, environment)
        script = _script(host_name, [*self._as_its_user, *command], mounts, security, self._group)
        self._process = subprocess.Popen(
            [*enter, *with_this_process(), *_UNSHARED, "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self.log.fill, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def exit_code(self) -> int | None:
        """As Kubernetes has it, 128 and the signal's number for an end by a signal; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return code if code >= 0 else 128 - code

    def was_out_of_memory(self) -> bool:
        """Whether the kernel killed for the group's limit."""
        if self._group is None:
            return False
        with contextlib.suppress(OSError):
            text = (self._group / "memory.oom_control").read_text()
            return any(line.startswith("oom_kill ") and not line.endswith(" 0") for line in text.splitlines())
        return False

    def first_process(self) -> int | None:
        """The process that is number 1 in the container."""
        with contextlib.suppress(OSError):
            for child in (
                Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            ):
                return int(child)
        return None

    def processes(self) -> list[int]:
        """All of its processes, as this machine numbers them."""
        found, left = [], [self.first_process()]
        while left:
            if (pid := left.pop()) is None:
                continue
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += [int(child) for child in (task / "children").read_text().split()]
        return found

    def run_beside(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A further process in it, as its user and with its environment, whose input and output are pipes."""
        if (first := self.first_process()) is None:
            raise ProcessLookupError("the container has ended")
        within = ["nsenter", f"--target={first}", "--mount", "--uts", "--net", "--pid", "--root"]
        return start([*within, *_IN_ITS_FOLDER, *self._as_its_user, *command])

    def send(self, number: signal.Signals) -> None:
        """A signal to its first process. SIGKILL ends all that run in it."""
        with contextlib.suppress(ProcessLookupError):
            if (first := self.first_process()) is not None:
                os.kill(first, number)
            elif number is signal.SIGKILL:
                self._process.kill()

    def clean(self) -> None:
        """After its end: read what is left of its output, and remove its group."""
        self._process.wait()
        self._reader.join(5)
        self.log.close()
        if self._group is not None:
            with contextlib.suppress(OSError):
                self._group.rmdir()


def _memory_group(name: str, limit: int | None) -> Path | None:
    group = _MEMORY_GROUPS / name
    if limit is None or not (_MEMORY_GROUPS / "memory.limit_in_bytes").exists():
        return None
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        return None
    return group


def _script(
    host_name: str,
    command: list[str],
    mounts: list[Mount],
    security: Object,
    group: Path | None,
) -> str:
    """Shell that makes the container around itself and becomes its command."""
    base = "/mnt"  # of this mount namespace alone
    root = f"{base}/root"
    lines = [
        "set -e",
        f"hostname {shlex.quote(host_name)}",
        f"mount -t tmpfs tmpfs {base}",
        f"mkdir {base}/up {base}/work {root}",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={base}/up,workdir={base}/work {root}",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        f"mount --rbind /sys {root}/sys",
    ]
    if group is not None:
        lines += [
            f"echo 0 > {group}/cgroup.procs",
            f"mount --bind {group} {root}{_MEMORY_GROUPS}",
        ]
    for mount in sorted([*mounts, *of_the_image(mounts)], key=lambda mount: mount.path):
        # where a link on the way, like /var/run, would lead out of the container's root
        target = shlex.quote(f"{root}{os.path.realpath(mount.path)}")
        make = f"mkdir -p {target}" if mount.source.is_dir() else f"test -e {target} || touch {target}"
        lines += [make, f"mount --bind {shlex.quote(str(mount.source))} {target}"]
    if security.get("readOnlyRootFilesystem"):
        lines.append(f"mount -o remount,ro {root}")
    lines.append(f"exec {shlex.join(['chroot', root, *_IN_ITS_FOLDER, *command])}")
    return "\n".join(lines)


def _as_its_user(security: Object, environment: dict[str, str]) -> list[str]:
    """What stands before a command in a container: its user, with these rights, and these variables alone."""
    become = []
    if user := security.get("runAsUser", 0):
        group_id = security.get("runAsGroup", user)
        right = "dac_read_search"
        become = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={group_id}",
            "--clear-groups",
            f"--bounding-set=-all,+{right}",
            f"--inh-caps=-all,+{right}",
            f"--ambient-caps=-all,+{right}",
            "--no-new-privs",
            "--securebits=+no_setuid_fixup",  # access(2), too, is to see what may be read
            "--",
        ]
    return [*become, "env", "-i", *(f"{name}={value}" for name, value in environment.items())]
