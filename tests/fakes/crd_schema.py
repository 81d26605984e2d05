"""KubeRay's own schema of a RayJob, made strict: a field that it does not list is a mistake."""

from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

CRD = Path(__file__).resolve().parents[2].parent / "shared" / "crds" / "ray.io_rayjobs.yaml"


@cache
def strict_schema():
    loaded = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
    version = next(version for version in loaded["spec"]["versions"] if version["name"] == "v1")
    return _strict(version["schema"]["openAPIV3Schema"])


def rayjob_errors(rayjob):
    """Each violation with its path; skips the test where the schema is not at hand."""
    if not CRD.exists():
        pytest.skip(f"KubeRay's schema is not at {CRD}")
    body = {name: value for name, value in rayjob.items() if name != "metadata"}
    validator = _validator()
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(body)
    ]


@cache
def _validator():
    return jsonschema.Draft7Validator(strict_schema())


def _strict(node):
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {name: _strict(value) for name, value in node.items() if not name.startswith("x-kubernetes")}
    if isinstance(node.get("properties"), dict):
        made["properties"] = {name: _strict(value) for name, value in node["properties"].items()}
        if "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    if node.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if made.get("format") in ("int32", "int64", "date-time", "double"):
        made.pop("format")
    return made


def restricted_violations(rayjob):
    """What Pod Security "restricted" finds wrong with the pods of a RayJob."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    templates = {"head": cluster["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    found = []
    for where, template in templates.items():
        spec = template["spec"]
        if spec["securityContext"].get("runAsNonRoot") is not True:
            found.append(f"{where}: runAsNonRoot")
        if spec["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
            found.append(f"{where}: seccompProfile")
        found += [f"{where}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
        allowed = {
            "configMap",
            "emptyDir",
            "persistentVolumeClaim",
            "projected",
            "secret",
            "downwardAPI",
            "csi",
            "ephemeral",
        }
        found += [f"{where}: volume {v['name']}" for v in spec["volumes"] if not set(v) - {"name"} <= allowed]
        for container in spec["containers"]:
            context = container["securityContext"]
            if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities") != {
                "drop": ["ALL"]
            }:
                found.append(f"{where}/{container['name']}: privileges")
            found += [
                f"{where}/{container['name']}: hostPort"
                for port in container.get("ports", [])
                if "hostPort" in port
            ]
    return found
