"""What is here: processes by more than their number, which is given again, with the moment at which each started; packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def boot() -> str:
    """Of the machine, since when the numbers of processes mean something. Raises OSError where the system says none."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none, or only what is left of it."""
    try:
        fields = process_status(pid)
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def process_status(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on. Raises OSError where there is none."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def is_installed(package: str) -> bool:
    """Whether a package is, by its name on PyPI; it is not imported."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
