"""NVIDIA GPUs of this machine: which there are, and which of this user's runs hold which."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from orchestrator.errors import ResourcesError
from orchestrator.private import own_folder, temporary_folder

_DRIVER = Path("/proc/driver/nvidia/gpus")
_CHOICE = "CUDA_VISIBLE_DEVICES"
_WSL_TOOLS = "/usr/lib/wsl/lib"


def visible_gpus() -> list[str]:
    """What CUDA calls the GPUs that this process may use: those of ``CUDA_VISIBLE_DEVICES``, or all.

    As CUDA does, takes the names before the first that is none (empty or -1).
    """
    chosen = os.environ.get(_CHOICE)
    if chosen is None:
        return [str(number) for number in range(_installed())]
    return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(","))))


def _installed() -> int:
    if _DRIVER.is_dir():
        return len(list(_DRIVER.iterdir()))
    # in WSL2 the driver is that of Windows, and only its tool knows
    tool = shutil.which("nvidia-smi", path=os.pathsep.join([os.environ.get("PATH", ""), _WSL_TOOLS]))
    if tool is None:
        return 0
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
        return len(re.findall(r"^GPU \d+:", told.stdout, re.MULTILINE))
    return 0


def smallest_gpu() -> tuple[str, int] | None:
    """Name and bytes of the GPU of this machine with least memory; None where there is none or its driver does not say."""
    if not visible_gpus():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        found = [
            (pynvml.nvmlDeviceGetMemoryInfo(one).total, pynvml.nvmlDeviceGetName(one)) for one in handles
        ]
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    if not found:
        return None
    memory, name = min(found)
    return str(name), int(memory)


def free_gpus() -> int:
    """How many of the GPUs that this process may use no run of this user holds at the moment."""
    free = 0
    for name in visible_gpus():
        with _lock_file(name).open("a+", encoding="utf-8") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free += 1
    return free


@contextlib.contextmanager
def held_gpus(count: int, run_id: str) -> Iterator[list[str]]:
    """``count`` GPUs that no other run of this user holds, by CUDA's names; given back at the end, however that comes.
    ``CUDA_VISIBLE_DEVICES`` names them meanwhile.

    Raises:
        ResourcesError: fewer are free; names who holds the others.

    """
    if not count:
        yield []
        return
    with contextlib.ExitStack() as held:
        names: list[str] = []
        holders: list[str] = []
        for name in visible_gpus():
            file = held.enter_context(_lock_file(name).open("a+", encoding="utf-8"))
            if holder := _holder(file, run_id):
                holders.append(holder)
            else:
                names.append(name)
            if len(names) == count:
                break
        else:
            raise ResourcesError(_want(count, names, holders))
        held.callback(_set, os.environ.get(_CHOICE))
        _set(",".join(names))
        yield names


def _lock_file(name: str) -> Path:
    parent = temporary_folder() / f"tw-{os.getuid()}"
    own_folder(parent)
    own_folder(parent / "gpus")
    return parent / "gpus" / re.sub(r"[^\w-]", "_", name)


def _holder(file: TextIO, run_id: str) -> str:
    """Who holds it; empty where this run does from now on. The kernel gives it back when the process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read() or "another run"
    file.truncate(0)
    file.write(run_id)
    file.flush()
    return ""


def _set(choice: str | None) -> None:
    if choice is None:
        os.environ.pop(_CHOICE, None)
    else:
        os.environ[_CHOICE] = choice


def _want(count: int, free: list[str], holders: list[str]) -> str:
    there = len(free) + len(holders)
    if there < count:
        return f"{count} GPUs are asked for, but this machine has {there}"
    return (
        f"{count} GPUs are asked for, but of this machine's {there} only {len(free)} are free:"
        f" {', '.join(sorted(set(holders)))} hold the others"
    )
