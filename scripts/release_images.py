#!/usr/bin/env python3
"""Build the images, push them to a registry, sign them, and write down what they are, by digest.

    scripts/release_images.py registry.example.com/team --python-image docker.io/library/python:3.11.14-slim-bookworm@sha256:…
    scripts/release_images.py oci:/tmp/layout --images mlflow --unsigned --python-image …      # into a folder, as a try
    scripts/release_images.py registry.example.com/team --dry-run --python-image …             # only print the commands

It takes buildah, and cosign for signatures: by the key that `--key` names, else by the identity that cosign asks for.
In `--out` (default: release/) each image leaves its SBOM (CycloneDX) and its provenance (SLSA 1), which cosign also
attaches to it, and all of them leave `images.yaml`: values of the chart that name each image by its digest.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
SBOM = "/opt/venv/sbom.cdx.json"
"""Where each image has it; the label trainwright.sbom says so, too."""
DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True)
class Image:
    """One image of a release: where it is built from, its name in the registry, and which value of the chart names it."""

    dockerfile: str
    target: str | None
    name: str
    suffix: str
    value: str | None


IMAGES = {
    "cuda": Image("docker/Dockerfile", "cuda", "trainwright", "", "image"),
    "cpu": Image("docker/Dockerfile", "cpu", "trainwright", "-cpu", None),
    "mlflow": Image("docker/mlflow.Dockerfile", None, "trainwright-mlflow", "", "mlflow.image"),
}


class Commands:
    """Runs commands, or only prints them."""

    def __init__(self, *, is_dry: bool) -> None:
        self.is_dry = is_dry

    def run(self, *command: str) -> None:
        """Exits with the command's name where it fails."""
        print(f"+ {shlex.join(command)}", flush=True)
        if not self.is_dry and subprocess.run(command, cwd=REPO, check=False).returncode:
            sys.exit(
                f"{command[0]} {command[1]} failed: what it said stands above; nothing after it was done"
            )

    def read(self, *command: str) -> str:
        """What a command prints. It is run in a dry run, too, so it must change nothing."""
        done = subprocess.run(command, cwd=REPO, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{shlex.join(command)} failed: {done.stderr.strip()}")
        return done.stdout.strip()


@dataclass(frozen=True)
class Source:
    """What is built: a commit, its version and time, and the base image."""

    revision: str
    version: str
    epoch: str
    python_image: str
    torch_index: str | None = None
    """Where the target ``cpu`` takes torch from; None: as its Dockerfile says."""


def source_of(commands: Commands, python_image: str, torch_index: str | None = None) -> Source:
    """The checkout's commit. Exits where files differ from it or the base can change under its tag."""
    if not DIGEST.search(python_image):
        sys.exit(
            f"--python-image {python_image} has no digest: give NAME:TAG@sha256:…, or what is built can't be told"
        )
    if changed := commands.read("git", "status", "--porcelain"):
        sys.exit(
            f"the checkout differs from its commit, which the provenance would name: commit first\n{changed}"
        )
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    epoch = commands.read("git", "log", "-1", "--format=%ct")
    return Source(commands.read("git", "rev-parse", "HEAD"), version, epoch, python_image, torch_index)


def build(commands: Commands, image: Image, source: Source, local: str) -> None:
    """An image in buildah's storage; its times are the commit's, so that it depends on less."""
    arguments = {"PYTHON_IMAGE": source.python_image, "VERSION": source.version, "REVISION": source.revision}
    command = ["buildah", "build", "--isolation", "chroot", "--format", "oci", "--timestamp", source.epoch]
    if source.torch_index:
        arguments["TORCH_INDEX"] = source.torch_index
    text = (REPO / image.dockerfile).read_text(encoding="utf-8")
    for name, value in arguments.items():
        if f"ARG {name}" in text:
            command += ["--build-arg", f"{name}={value}"]
    if image.target:
        command += ["--target", image.target]
    ignored = ["--ignorefile", f"{image.dockerfile}.dockerignore"]
    commands.run(*command, *ignored, "--file", image.dockerfile, "--tag", local, ".")


def push(commands: Commands, local: str, registry: str, name_and_tag: str) -> str:
    """The digest that the registry has the image by."""
    where = (
        f"{registry}/{name_and_tag}" if registry.startswith("oci:") else f"docker://{registry}/{name_and_tag}"
    )
    with tempfile.NamedTemporaryFile("r", suffix=".digest", encoding="utf-8") as file:
        commands.run("buildah", "push", "--digestfile", file.name, local, where)
        digest = "sha256:" + "0" * 64 if commands.is_dry else file.read().strip()
    if not DIGEST.fullmatch(digest):
        sys.exit(f"buildah push left no digest of {where}, but {digest!r}")
    return digest


def sbom_of(commands: Commands, local: str, path: Path) -> None:
    """The SBOM that lies in the image, as a file. Exits where it holds none."""
    command = ["buildah", "from", "--pull-never", local]
    print(f"+ {shlex.join(command)}, and {SBOM} of it to {path}", flush=True)
    if commands.is_dry:
        return
    container = commands.read(*command)
    try:
        text = commands.read("buildah", "run", "--isolation", "chroot", container, "--", "cat", SBOM)
    finally:
        subprocess.run(["buildah", "rm", container], check=False, capture_output=True)
    if json.loads(text).get("bomFormat") != "CycloneDX":
        sys.exit(f"{SBOM} of {local} is no CycloneDX SBOM")
    path.write_text(text, encoding="utf-8")


def provenance(image: Image, source: Source, began: datetime, ended: datetime) -> dict[str, Any]:
    """The SLSA 1 predicate: what was built, of what, by what."""
    return {
        "buildDefinition": {
            "buildType": "https://github.com/containers/buildah",
            "externalParameters": {
                "dockerfile": image.dockerfile,
                "target": image.target,
                "version": source.version,
                "pythonImage": source.python_image,
                "torchIndex": source.torch_index,
            },
            "resolvedDependencies": [
                {"uri": f"pkg:pypi/trainwright@{source.version}", "digest": {"gitCommit": source.revision}},
                {
                    "uri": f"docker:{source.python_image.partition('@')[0]}",
                    "digest": {"sha256": DIGEST.findall(source.python_image)[0].removeprefix("sha256:")},
                },
            ],
        },
        "runDetails": {
            "builder": {"id": "scripts/release_images.py"},
            "metadata": {"startedOn": began.isoformat(), "finishedOn": ended.isoformat()},
        },
    }


def sign(commands: Commands, reference: str, key: str | None, attested: dict[str, Path]) -> None:
    """A signature, and one with each statement about the image."""
    by = ["--yes", *(["--key", key] if key else [])]
    commands.run("cosign", "sign", *by, reference)
    for kind, path in attested.items():
        commands.run("cosign", "attest", *by, "--type", kind, "--predicate", str(path), reference)


def values_of(registry: str, released: dict[str, str]) -> str:
    """Values of the chart, for the images that it names; ``released`` is digests by key of IMAGES."""
    host, _, folder = registry.partition("/")
    text = "# Images by digest, by scripts/release_images.py\n"
    for key, digest in released.items():
        image = IMAGES[key]
        name = f"{folder}/{image.name}" if folder else image.name
        lines = [f"registry: {host}", f"repository: {name}", f"digest: {digest}"]
        if image.value is None:
            text += f"# {key}: {registry}/{image.name}@{digest}\n"
            continue
        steps = image.value.split(".")
        for depth, step in enumerate(steps):
            text += f"{'  ' * depth}{step}:\n"
        text += "".join(f"{'  ' * len(steps)}{line}\n" for line in lines)
    return text


def release(commands: Commands, key: str, source: Source, options: argparse.Namespace) -> str:
    """One image, built, pushed, described and signed; its digest."""
    image = IMAGES[key]
    local = f"localhost/{image.name}:{source.version}{image.suffix}"
    began = datetime.now(UTC)
    build(commands, image, source, local)
    stem = f"{image.name}-{source.version}{image.suffix}"
    sbom, statement = options.out / f"{stem}.cdx.json", options.out / f"{stem}.provenance.json"
    sbom_of(commands, local, sbom)
    digest = push(commands, local, options.registry, f"{image.name}:{source.version}{image.suffix}")
    if not commands.is_dry:
        told = provenance(image, source, began, datetime.now(UTC))
        statement.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if not options.unsigned:
        reference = f"{options.registry}/{image.name}@{digest}"
        sign(commands, reference, options.key, {"cyclonedx": sbom, "slsaprovenance1": statement})
    return digest


def main(words: Sequence[str] | None = None) -> None:
    """Release the images that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("registry", help="where to push: HOST[:PORT]/FOLDER, or oci:FOLDER")
    parser.add_argument("--python-image", required=True, help="the base image, by digest")
    parser.add_argument("--images", nargs="+", choices=sorted(IMAGES), default=list(IMAGES))
    parser.add_argument("--torch-index", help="index that the image cpu takes torch from, such as a mirror")
    parser.add_argument("--key", help="cosign's key; default: the identity that it asks for")
    parser.add_argument("--unsigned", action="store_true", help="publish without signatures")
    parser.add_argument(
        "--out", type=Path, default=REPO / "release", help="folder of SBOMs, provenance and values"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    options = parser.parse_args(words)
    commands = Commands(is_dry=options.dry_run)
    if not options.unsigned and options.registry.startswith("oci:"):
        sys.exit("cosign signs in a registry, not in a folder: give a registry, or --unsigned")
    for tool in ["buildah", *([] if options.unsigned else ["cosign"])]:
        if not options.dry_run and not shutil.which(tool):
            hint = ", or publish without signatures by --unsigned" if tool == "cosign" else ""
            sys.exit(f"{tool} is not on this machine: install it{hint}")
    source = source_of(commands, options.python_image, options.torch_index)
    if not options.dry_run:
        options.out.mkdir(parents=True, exist_ok=True)
        if options.registry.startswith("oci:"):
            Path(options.registry.removeprefix("oci:")).mkdir(parents=True, exist_ok=True)
    released = {key: release(commands, key, source, options) for key in options.images}
    if options.registry.startswith("oci:"):
        print("\n".join(f"{IMAGES[key].name} ({key}): {digest}" for key, digest in released.items()))
        return
    values = values_of(options.registry, released)
    print(values, end="")
    if not options.dry_run:
        (options.out / "images.yaml").write_text(values, encoding="utf-8")


if __name__ == "__main__":
    main()
