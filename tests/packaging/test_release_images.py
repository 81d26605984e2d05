"""What publishes the images, with a buildah and a cosign that write down what they are asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/python:3.11-slim@sha256:" + "b" * 64
PUSHED = "sha256:" + "c" * 64
BUILDAH = f"""#!/bin/sh
echo "buildah $*" >> "$CALLS"
case "$1" in
  $FAILS) echo "no room" >&2; exit 1 ;;
  from) echo working-1 ;;
  run) echo "$SBOM" ;;
  push) printf %s {PUSHED} > "$3" ;;
esac
"""
COSIGN = '#!/bin/sh\necho "cosign $*" >> "$CALLS"\n'


class Checkout:
    """A clean checkout with the script and the Dockerfiles, and tools of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.tools = folder / "repo", folder / "calls", folder / "bin"
        for path in ("scripts/release_images.py", "docker", "pyproject.toml", ".gitignore"):
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (REPO / path).is_dir() else shutil.copy)(REPO / path, target)
        self.tools.mkdir()
        self.calls.touch()
        (self.tools / "git").symlink_to(str(shutil.which("git")))
        self.tool("buildah", BUILDAH)
        self.tool("cosign", COSIGN)
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "all")

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text, encoding="utf-8")
        (self.tools / name).chmod(0o755)

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def release(self, *words: str, fails: str = "none", sbom: str = '{"bomFormat": "CycloneDX"}'):
        environment = {
            "CALLS": str(self.calls),
            "FAILS": fails,
            "SBOM": sbom,
            "PATH": f"{self.tools}:/usr/bin:/bin",
        }
        if not (self.tools / "cosign").exists():
            environment["PATH"] = str(self.tools)
        return subprocess.run(
            [sys.executable, "scripts/release_images.py", *words],
            cwd=self.folder, env={"HOME": os.environ["HOME"], **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def called(self) -> list[str]:
        return self.calls.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_each_image_is_built_of_the_commit_described_pushed_and_signed_by_digest(checkout):
    done = checkout.release("registry.example.com/team", "--python-image", BASE, "--key", "k")
    assert done.returncode == 0, done.stderr
    revision = checkout.git("rev-parse", "HEAD")
    called = checkout.called()
    builds = [line for line in called if line.startswith("buildah build")]
    assert [line.split("--tag ")[1] for line in builds] == [
        "localhost/trainwright:0.1.0 .", "localhost/trainwright:0.1.0-cpu .", "localhost/trainwright-mlflow:0.1.0 ."
    ]  # fmt: skip
    assert all(f"PYTHON_IMAGE={BASE}" in line and f"REVISION={revision}" in line for line in builds)
    assert [f"--target {line.split('--target ')[1].split()[0]}" for line in builds[:2]] == [
        "--target cuda",
        "--target cpu",
    ]
    signed = [line for line in called if line.startswith("cosign")]
    assert signed[0] == f"cosign sign --yes --key k registry.example.com/team/trainwright@{PUSHED}"
    assert len(signed) == 9
    assert all(line.endswith(f"@{PUSHED}") for line in signed)
    out = checkout.folder / "release"
    values = yaml.safe_load((out / "images.yaml").read_text(encoding="utf-8"))
    assert values == {
        "image": {"registry": "registry.example.com", "repository": "team/trainwright", "digest": PUSHED},
        "mlflow": {
            "image": {
                "registry": "registry.example.com",
                "repository": "team/trainwright-mlflow",
                "digest": PUSHED,
            }
        },
    }
    told = json.loads((out / "trainwright-0.1.0.provenance.json").read_text(encoding="utf-8"))
    commit, base = told["buildDefinition"]["resolvedDependencies"]
    assert (commit["digest"], base["digest"]) == ({"gitCommit": revision}, {"sha256": "b" * 64})
    assert json.loads((out / "trainwright-0.1.0-cpu.cdx.json").read_text(encoding="utf-8")) == {
        "bomFormat": "CycloneDX"
    }
    # the folder it leaves doesn't make the next release refuse
    assert checkout.git("status", "--porcelain") == ""


def test_a_mirror_of_torch_is_passed_to_the_image_that_asks_for_one(checkout):
    words = [
        "registry.example.com",
        "--python-image",
        BASE,
        "--torch-index",
        "https://mirror.example.com/cpu",
    ]
    done = checkout.release(*words, "--key", "k")
    assert done.returncode == 0, done.stderr
    builds = [line for line in checkout.called() if line.startswith("buildah build")]
    asked = "--build-arg TORCH_INDEX=https://mirror.example.com/cpu"
    assert [asked in line for line in builds] == [True, True, False]
    told = json.loads(
        (checkout.folder / "release" / "trainwright-0.1.0-cpu.provenance.json").read_text("utf-8")
    )
    assert told["buildDefinition"]["externalParameters"]["torchIndex"] == "https://mirror.example.com/cpu"


def test_a_dry_run_prints_all_commands_and_runs_none(checkout):
    (checkout.tools / "cosign").unlink()
    done = checkout.release("registry.example.com/team", "--python-image", BASE, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("+ buildah build") == done.stdout.count("+ cosign sign") == 3
    assert checkout.called() == []
    assert not (checkout.folder / "release").exists()


REFUSED = {
    "a base by tag": (["--python-image", "python:3.11"], "--python-image python:3.11 has no digest"),
    "signatures in a folder": (
        ["--python-image", BASE, "oci:x"],
        "cosign signs in a registry, not in a folder",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_told_or_signed_is_refused_before_anything_is_built(checkout, name):
    words, sentence = REFUSED[name]
    registry = [] if "oci:x" in words else ["registry.example.com"]
    done = checkout.release(*registry, *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert checkout.called() == []


def test_unsigned_is_said_and_not_slipped_into(checkout):
    (checkout.tools / "cosign").unlink()
    words = ["registry.example.com", "--python-image", BASE, "--images", "mlflow"]
    refused = checkout.release(*words)
    assert (
        "cosign is not on this machine: install it, or publish without signatures by --unsigned"
        in refused.stderr
    )
    assert checkout.called() == []


def test_a_checkout_that_differs_is_refused(checkout):
    (checkout.folder / "pyproject.toml").write_text('version = "9"\n', encoding="utf-8")
    done = checkout.release("registry.example.com", "--python-image", BASE)
    assert "the checkout differs from its commit" in done.stderr
    assert checkout.called() == []


@pytest.mark.parametrize("step", ["build", "push"])
def test_nothing_is_signed_after_a_step_failed(checkout, step):
    done = checkout.release("registry.example.com", "--python-image", BASE, fails=step)
    assert done.returncode == 1
    assert f"buildah {step} failed" in done.stderr
    assert not [line for line in checkout.called() if line.startswith("cosign")]
    assert not (checkout.folder / "release" / "images.yaml").exists()


def test_an_image_without_an_sbom_is_not_pushed(checkout):
    done = checkout.release("registry.example.com", "--python-image", BASE, sbom="{}")
    assert "is no CycloneDX SBOM" in done.stderr
    assert not [line for line in checkout.called() if line.startswith("buildah push")]
    assert "buildah rm working-1" in checkout.called()
