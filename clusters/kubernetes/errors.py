"""What a Kubernetes API server's answers mean for a person, in one sentence each. Pure."""

from __future__ import annotations

import json

from orchestrator.errors import (
    InfrastructureError,
    NotFoundError,
    ResourcesError,
    SpecError,
    TrainwrightError,
)
from orchestrator.spec.profile import ClusterProfile

_RIGHTS_OF_STORAGE = {("create", "pods"), ("delete", "pods"), ("create", "pods/exec")}
_RIGHTS_OF_DASHBOARDS = {("create", "pods/portforward"), ("get", "services"), ("get", "secrets")}
_QUOTA_NOT_COUNTED = "status unknown for quota"


class AlreadyThereError(TrainwrightError):
    """An object of the name exists (409 on creation)."""


class QuotaNotCountedError(InfrastructureError):
    """Said for a while after a quota, or the kind that it counts, is new; then the same call succeeds."""


class NotYetError(InfrastructureError):
    """A container's output can't be read now: it waits to start, or its node does not answer. It may come."""


class UnknownUserError(InfrastructureError):
    """The API server does not know who asks (401): a token has ended, or is not its own."""


class NoRightError(InfrastructureError):
    """The person may not do this (403)."""


class ImageError(InfrastructureError):
    """A pod's image is not there, or not for us. Says which, and not what mends it."""


class GoneError(InfrastructureError):
    """The place in a list or in history is no more (410)."""


def refusal(profile: ClusterProfile, verb: str, resource: str, status: int, text: str) -> TrainwrightError:
    """The error for an answer that was not good; status 0: for none, with ``text`` saying why. Pure."""
    namespace = profile.kubernetes.namespace
    where = f"cluster {profile.name}"
    said = _message_of(text)
    if status == 0:
        return InfrastructureError(
            f"{where}: the API server does not answer ({said}); check context and network"
        )
    if status == 401:
        return UnknownUserError(
            f"{where}: the API server does not know you; log in again (kubectl auth whoami)"
        )
    if status == 403 and "exceeded quota" in said:
        return ResourcesError(f"{where}: {said}")
    if status == 403 and _QUOTA_NOT_COUNTED in said:
        return QuotaNotCountedError(
            f"{where}: Kubernetes has not counted yet what the quota of namespace {namespace} limits; try again in a"
            f" minute ({said})"
        )
    if status == 403 and "being terminated" in said:
        return InfrastructureError(f"{where}: {said}")
    if status == 403 and "denied" in said:  # by an admission policy or webhook, in its own words
        return SpecError(f"{where} refuses the object: {said}")
    if status == 403:
        role = (
            "storage"
            if (verb, resource) in _RIGHTS_OF_STORAGE
            else "dashboards"
            if (verb, resource) in _RIGHTS_OF_DASHBOARDS
            else "submitter"
        )
        return NoRightError(
            f"{where}: you have no right to {verb} {resource} in namespace {namespace}; ask for a role that"
            f" has it (the chart's <name>-{role} does)"
        )
    if status == 404 and f'namespaces "{namespace}"' in said:
        return InfrastructureError(f"{where}: namespace {namespace} is not there")
    if (
        status == 404
        and resource.endswith("ray.io")
        and "not found" not in said.replace("page not found", "")
    ):
        return InfrastructureError(
            f"{where}: the API server knows no {resource} in version v1; install the KubeRay operator 1.7"
        )
    if status == 404:
        return NotFoundError(f"{where}: {said or resource + ' not found'}")
    if status == 409:
        return AlreadyThereError(f"{where}: {said}")
    if status == 410:
        return GoneError(f"{where}: {said}")
    if resource == "pods/log" and (status == 400 or status >= 500):
        return NotYetError(f"{where}: the log can't be read yet: {said or f'HTTP {status}'}")
    if status in (400, 422):
        hint = " (its KubeRay is of another version)" if "unknown field" in said else ""
        return SpecError(f"{where} refuses the object{hint}: {said}")
    return InfrastructureError(
        f"{where}: can't {verb} {resource}: HTTP {status}{f': {said}' if said else ''}"
    )


def _message_of(text: str) -> str:
    """The message of a Status object; else the first line of what is no web page."""
    try:
        value = json.loads(text)
        if isinstance(value, dict) and value.get("message"):
            return str(value["message"])[:500]
    except ValueError:
        pass
    lines = text.strip().splitlines()
    return "" if not lines or lines[0].lstrip().startswith("<") else lines[0][:300]
