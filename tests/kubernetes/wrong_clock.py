"""A wrong clock for one process and all that it starts: Python, TLS, and commands that it calls.

libfaketime 0.9.10 would do, but makes Python's ``time.sleep`` fail.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")


def ahead_by(seconds: float, folder: Path) -> dict[str, str]:
    """Variables of a process whose clock is so far ahead, or behind where it is negative; skips the test where it can't be made.

    Args:
        folder: Where what is compiled is kept.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a wrong clock takes Linux and a C compiler (cc)")
    library = folder / "wrong_clock.so"
    if not library.exists():
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return {"LD_PRELOAD": str(library), "WRONG_CLOCK_SECONDS": f"{seconds:.0f}"}
