"""Install what jobs run with on a volume, once: the pods that come later find it there.

install_packages.py FOLDER    FOLDER becomes a virtual environment; its parent is the volume

Beside this file lie requirements.txt, every line with its hash, as scripts/lock_packages.py writes it, pip.conf, and
the wheel of trainwright where no index has it. Pods that come at the same time wait for the first. An installation
that was cut off is made anew; only a whole one bears the mark. It exits with a sentence where it can't be had.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(os.environ.get("TRAINWRIGHT_PACKAGES", Path(__file__).parent))
MARK = "complete.json"
FROM_SOURCE = "# from source\n"
"""Stands in requirements.txt before what has no wheel, and so is built by the setuptools that stands before."""


def this_python() -> str:
    """What an installation is for, e.g. ``Python 3.11 on x86_64``."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.machine()}"


def problem_of(requirements: str) -> str | None:
    """Why these can't be installed by this Python."""
    made_for = re.search(r"Python \d+\.\d+ on \w+", requirements.partition("\n")[0])
    if made_for is None:
        return f"{HERE}/requirements.txt doesn't say which Python it is for: make it with scripts/lock_packages.py"
    if made_for[0] != this_python():
        return (
            f"{HERE}/requirements.txt is for {made_for[0]}, and this image has {this_python()}: make it with"
            " scripts/lock_packages.py by the image's Python, or take another image"
        )
    return None


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a whole installation. Exits where it is another Python's."""
    try:
        made_for = json.loads((folder / MARK).read_text(encoding="utf-8"))["python"]
    except FileNotFoundError:
        return False
    if made_for != this_python():
        sys.exit(f"{folder} was installed for {made_for}, and this image has {this_python()}")
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with the folder among all pods; a process that is killed lets go."""
    with Path(f"{folder}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another pod installs into {folder}: waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pip_install(python: Path, requirements: str, *options: str) -> None:
    """What these lines name and nothing else, each file checked against its hash."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(requirements)
        file.flush()
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--require-hashes",
            "--no-deps",
        ]
        command += ["--no-cache-dir", *options, "--requirement", file.name]
        environment = {
            **os.environ,
            "PIP_CONFIG_FILE": str(HERE / "pip.conf"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        sys.exit(
            f"pip could not install the packages (exit code {done.returncode}): what it said stands above"
        )


def install(folder: Path, requirements: str) -> None:
    """A virtual environment at its place, and the mark when all of it is written."""
    if folder.exists():
        print(f"{folder} was begun and never finished: made anew", flush=True)
        shutil.rmtree(folder)
    print(f"installing into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    wheels, _, sources = requirements.partition(FROM_SOURCE)
    pip_install(python, wheels, "--only-binary=:all:")
    if sources:
        pip_install(python, sources, "--no-build-isolation")
    os.sync()
    mark = folder / f"{MARK}.new"
    mark.write_text(json.dumps({"python": this_python()}), encoding="utf-8")
    mark.replace(folder / MARK)


def main() -> None:
    """Exit with 0 where the installation is there, whoever made it."""
    os.umask(0o022)
    folder = Path(sys.argv[1])
    requirements = (HERE / "requirements.txt").read_text(encoding="utf-8")
    if problem := problem_of(requirements):
        sys.exit(problem)
    if not is_complete(folder):
        with locked(folder):
            if not is_complete(folder):
                install(folder, requirements)
    print(f"{folder} is there", flush=True)


if __name__ == "__main__":
    main()
