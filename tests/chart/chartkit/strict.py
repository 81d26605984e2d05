"""Validate objects strictly, offline: unknown fields are refused.

Kubernetes' own kinds by the schemas that kubernetes-validate carries, one set for each minor version; custom
resources by their CRD where it is at hand, else by the closed schema of the fields that the chart uses.
"""

from __future__ import annotations

import functools
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from chartkit.custom_resources import SCHEMAS
from chartkit.helm import REPO, Object

CRD_FOLDERS = [REPO.parent / "shared" / "crds"]
if extra := os.environ.get("TRAINWRIGHT_CRDS"):
    CRD_FOLDERS.append(Path(extra))


@functools.cache
def crd_files() -> dict[str, Path]:
    """CRD files at hand, by ``group/kind``; read by their head alone, since they are large."""
    found = {}
    for folder in CRD_FOLDERS:
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else []:
            head = path.read_text(encoding="utf-8")[:200_000]
            group = re.search(r"^  group: (\S+)", head, re.MULTILINE)
            kind = re.search(r"^    kind: (\S+)", head, re.MULTILINE)
            if group and kind:
                found[f"{group[1]}/{kind[1]}"] = path
    return found


def has_crd(kind: str) -> bool:
    """Whether the CRD of ``group/kind`` is at hand."""
    return kind in crd_files()


def close(schema: Any) -> Any:
    """An OpenAPI v3 structural schema as a JSON schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [close(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: close(s) for name, s in value.items()} if key == "properties" else close(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key not in ("description", "nullable", "format", "default")
    }
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["type"] = ["integer", "string"]
    if schema.get("nullable") and "type" in closed:
        kinds = closed["type"] if isinstance(closed["type"], list) else [closed["type"]]
        closed["type"] = [*kinds, "null"]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in closed and "additionalProperties" not in closed and not open_ended:
        closed["additionalProperties"] = False
    return closed


@functools.cache
def crd_validator(kind: str, version: str) -> Draft202012Validator:
    """Validator of one version of a custom resource, ``kind`` being ``group/Kind``."""
    if kind not in crd_files():
        return Draft202012Validator(SCHEMAS[kind])
    crd = yaml.load(crd_files()[kind].read_text(encoding="utf-8"), yaml.CSafeLoader)
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == version]
    closed = close(schema)
    closed["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(closed)


def _schema_folder(kube_version: str) -> Any:
    return files("kubernetes_validate") / "kubernetes-json-schema" / f"v{kube_version}.0-local-strict"


@functools.cache
def _registry(kube_version: str) -> Registry:
    text = (_schema_folder(kube_version) / "_definitions.json").read_text(encoding="utf-8")
    resource = Resource.from_contents(json.loads(text), default_specification=DRAFT202012)
    return Registry().with_resource("/api/_definitions.json", resource)


@functools.cache
def _builtin_validator(kind: str, api: str, kube_version: str) -> Draft202012Validator:
    path = _schema_folder(kube_version) / f"{kind.lower()}-{api}.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=_registry(kube_version))


@functools.lru_cache(maxsize=100_000)
def _errors(text: str, kube_version: str) -> tuple[str, ...]:
    o = json.loads(text)
    group, _, version = o["apiVersion"].rpartition("/")
    kind = f"{group}/{o['kind']}"
    if kind in SCHEMAS or kind in crd_files():
        validator = crd_validator(kind, version)
    else:
        api = f"{group.split('.')[0]}-{version}" if group else version
        validator = _builtin_validator(o["kind"], api, kube_version)
    where = f"{o['kind']}/{o['metadata']['name']}"
    return tuple(
        f"{where}: /{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}"
        for e in validator.iter_errors(o)
    )


def errors(o: Object, kube_version: str = "1.34") -> tuple[str, ...]:
    """What is wrong with an object, a line each; empty: nothing. An object seen before costs nothing."""
    return _errors(json.dumps(o, sort_keys=True), kube_version)
