#!/usr/bin/env python3
"""Write the requirements, each with its hash, that pods on Ray's own image install; see "Without an image" in docs/helm.md.

    python3.11 -m build --wheel
    python3.11 scripts/lock_packages.py dist/trainwright-0.1.0-py3-none-any.whl > requirements.txt

Run it by the Python of the image (3.11 for `-py311`) on a machine like the nodes. Versions are those of constraints.txt;
pip says which file of each it would install here. Further options go to pip, e.g. `--index-url`, or for CPU builds of
torch `--extra-index-url https://download.pytorch.org/whl/cpu`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
BUILDERS = ("pip", "setuptools", "wheel")
"""What packages without a wheel are built with, and what a job installs more with."""


def report_of(wanted: list[str], options: list[str]) -> list[dict[str, Any]]:
    """What pip would install, file by file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--constraint", str(REPO / "constraints.txt"), "--report", str(path), *options, *wanted]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            sys.exit("pip found no set of packages: what it said stands above")
        return list(json.loads(path.read_text(encoding="utf-8"))["install"])


def sha256_of(download: dict[str, Any]) -> str:
    """The file's hash, from the index, or counted where it lies on this machine. Exits where there is none."""
    hashes = download["archive_info"].get("hashes") or {}
    if "sha256" in hashes:
        return str(hashes["sha256"])
    parsed = urllib.parse.urlparse(download["url"])
    if parsed.scheme != "file":
        sys.exit(f"{download['url']}: the index gives no sha256 for it")
    return hashlib.sha256(Path(urllib.request.url2pathname(parsed.path)).read_bytes()).hexdigest()


def locked(found: list[dict[str, Any]]) -> str:
    """The text of requirements.txt: wheels, then what is built from source."""
    lines: dict[bool, list[str]] = {True: [], False: []}
    for each in sorted(found, key=lambda each: str(each["metadata"]["name"]).lower()):
        name, version = each["metadata"]["name"], each["metadata"]["version"]
        is_wheel = str(each["download_info"]["url"]).partition("#")[0].endswith(".whl")
        lines[is_wheel].append(f"{name}=={version} --hash=sha256:{sha256_of(each['download_info'])}\n")
    python = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.machine()}"
    sources = ["# from source\n", *lines[False]] if lines[False] else []
    return "".join([f"# for {python}, by scripts/lock_packages.py\n", *lines[True], *sources])


def main() -> None:
    """Print the requirements."""
    if len(sys.argv) < 2 or not sys.argv[1].endswith(".whl"):
        sys.exit("usage: lock_packages.py WHEEL [option of pip ...]")
    wheel, *options = sys.argv[1:]
    sys.stdout.write(locked(report_of([f"{wheel}[train]", *BUILDERS], options)))


if __name__ == "__main__":
    main()
