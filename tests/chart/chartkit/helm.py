"""Run helm on a work copy of the chart, and read what it renders."""

from __future__ import annotations

import atexit
import functools
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[3]
CHART = REPO / "helm" / "trainwright"
TOOLS = REPO / ".tools" / "bin"
IMAGE = {"registry": "registry.example.com", "repository": "trainwright"}
KUBE_VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
MONITORING = "monitoring.coreos.com/v1"
OPERATOR_VERSION = "1.7.0"

Values = dict[str, Any]
Object = dict[str, Any]

# What stands in for the operator's own chart, which can't be fetched without a network: it takes any values and
# shows them in a ConfigMap.
STAND_IN = {
    "Chart.yaml": f"apiVersion: v2\nname: kuberay-operator\nversion: {OPERATOR_VERSION}\n",
    "values.yaml": "replicas: 1\nlivenessProbe:\n  periodSeconds: 5\nwatchNamespace: []\n",
    "templates/configmap.yaml": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kuberay-operator-stand-in\n"
        "  namespace: {{ .Release.Namespace }}\n"
        "data:\n  values: |\n    {{- toYaml .Values | nindent 4 }}\n"
    ),
}


@functools.cache
def binary(name: str) -> str:
    """Path of helm or kubectl, fetched once if need be; skips the test with the reason where it can't be had."""
    path = TOOLS / name
    if not path.exists():
        script = [sys.executable, str(REPO / "scripts" / "fetch_helm.py")]
        done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            pytest.skip(
                f"no {name}: scripts/fetch_helm.py failed: {(done.stderr or done.stdout).strip()[-200:]}"
            )
    return str(path)


def operator_chart() -> Path | None:
    """The operator's own chart, from a KubeRay checkout that TRAINWRIGHT_KUBERAY_CHECKOUT names."""
    checkout = os.environ.get("TRAINWRIGHT_KUBERAY_CHECKOUT")
    return Path(checkout) / "helm-chart" / "kuberay-operator" if checkout else None


@functools.cache
def work_copy() -> Path:
    """The chart with its dependency in place: the operator's own chart where there is one, else the stand-in."""
    folder = Path(tempfile.mkdtemp(prefix="trainwright-chart-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    chart = folder / "trainwright"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    operator = chart / "charts" / "kuberay-operator"
    if source := operator_chart():
        shutil.copytree(source, operator)
    else:
        for name, text in STAND_IN.items():
            (operator / name).parent.mkdir(parents=True, exist_ok=True)
            (operator / name).write_text(text, encoding="utf-8")
    return chart


class HelmError(Exception):
    """Helm refused; the text is what it printed."""


def helm(*arguments: str, values: Values | None = None, environment: dict[str, str] | None = None) -> str:
    """Helm's standard output. Values are read from standard input."""
    command = [binary("helm"), *arguments]
    if values is not None:
        command += ["--values", "-"]
    done = subprocess.run(
        command,
        input=json.dumps(values) if values is not None else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        raise HelmError(done.stderr.strip())
    return done.stdout


@functools.lru_cache(maxsize=4096)
def _template(
    values: str, kube_version: str, api_versions: tuple[str, ...], release: str, namespace: str
) -> str:
    arguments = ["template", release, str(work_copy()), "--namespace", namespace, "--skip-crds"]
    arguments += ["--kube-version", kube_version]
    for version in api_versions:
        arguments += ["--api-versions", version]
    return helm(*arguments, values=json.loads(values))


def template(
    values: Values | None = None,
    *,
    kube_version: str = "1.34",
    api_versions: tuple[str, ...] = (),
    release: str = "train",
    namespace: str = "training",
) -> str:
    """The manifest as text. ``image`` is filled in where the values leave it out."""
    filled = {"image": IMAGE, **(values or {})}
    return _template(json.dumps(filled, sort_keys=True), kube_version, api_versions, release, namespace)


_OURS = re.compile(r"^# Source: trainwright/templates/", re.MULTILINE)


@functools.lru_cache(maxsize=4096)
def _parse(text: str, with_operator: bool) -> bytes:
    documents = re.split(r"^---\s*$", text, flags=re.MULTILINE)
    wanted = [document for document in documents if with_operator or _OURS.search(document)]
    return pickle.dumps([o for o in (yaml.load(d, yaml.CSafeLoader) for d in wanted) if o])


def render(values: Values | None = None, *, with_operator: bool = False, **options: Any) -> list[Object]:
    """The objects that our own templates render; ``with_operator`` adds those of the subchart."""
    return pickle.loads(_parse(template(values, **options), with_operator))


def find(objects: list[Object], kind: str, name: str) -> Object | None:
    """The object of this kind and name, or None."""
    return next((o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name), None)


def merge(base: Values, top: Values) -> Values:
    """``top`` laid over ``base`` as helm lays values files: maps merge, all else is replaced."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def values_file(path: str) -> Values:
    """A values file of the chart, by its path inside the chart."""
    return yaml.safe_load((CHART / path).read_text(encoding="utf-8"))


def pod_templates(objects: list[Object]) -> list[tuple[str, Object]]:
    """Every pod template in these objects, as (where it is, {metadata, spec})."""
    found: list[tuple[str, Object]] = []

    def walk(value: Any, where: str) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("spec"), dict) and isinstance(value["spec"].get("containers"), list):
                found.append((where, value))
            for key, inner in value.items():
                walk(inner, f"{where}/{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk(inner, f"{where}/{index}")

    for o in objects:
        walk(o, f"{o['kind']}/{o['metadata']['name']}")
    return found
