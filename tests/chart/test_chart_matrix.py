"""Every value combination on every supported Kubernetes version renders objects that a strict schema accepts."""

from __future__ import annotations

import pytest
from chartkit.combinations import ALL, COMBINATIONS, FILES, NAMES, kube_version_of
from chartkit.helm import (
    IMAGE,
    KUBE_VERSIONS,
    MONITORING,
    HelmError,
    Values,
    helm,
    merge,
    pod_templates,
    render,
    template,
    values_file,
    work_copy,
)
from chartkit.podsecurity import violations
from chartkit.strict import errors, has_crd


def check(values: Values, kube_version: str) -> None:
    objects = render(values, kube_version=kube_version, api_versions=(MONITORING,))
    assert objects
    found = [line for o in objects for line in errors(o, kube_version)]
    names = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names)), "two objects of the same kind and name"
    assert all(len(o["metadata"]["name"]) <= 63 for o in objects)
    found += [f"{where}: {v}" for where, pod in pod_templates(objects) for v in violations(pod)]
    assert not found, "\n".join(found)


def test_there_are_at_least_sixty_combinations():
    assert len(COMBINATIONS) >= 60


def _has_ray_cluster(name: str) -> bool:
    return "interactive" in name or name == "ci/everything-values.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_combination_is_valid(name):
    """One Kubernetes version each, so that all are covered; the slow suite takes every version."""
    if _has_ray_cluster(name) and not has_crd("ray.io/RayCluster"):
        pytest.skip("the KubeRay CRDs are not at hand (../shared/crds)")
    check(ALL[name], kube_version_of(name))


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("name", ["ci/everything-values.yaml", "presets/laptop.yaml"])
def test_file_is_valid_on_every_version(name, kube_version):
    if "everything" in name and not has_crd("ray.io/RayCluster"):
        pytest.skip("the KubeRay CRDs are not at hand (../shared/crds)")
    check(FILES[name], kube_version)


@pytest.mark.slow
@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_combination_is_valid_on_every_version(name, kube_version):
    if _has_ray_cluster(name) and not has_crd("ray.io/RayCluster"):
        pytest.skip("the KubeRay CRDs are not at hand (../shared/crds)")
    check(ALL[name], kube_version)


@pytest.mark.parametrize("name", sorted(FILES))
def test_lint_strict(name):
    out = helm("lint", "--strict", str(work_copy()), values={"image": IMAGE, **FILES[name]})
    assert "0 chart(s) failed" in out


@pytest.mark.parametrize("kube_version", ["1.28", "1.38"])
def test_other_versions_are_refused(kube_version):
    with pytest.raises(HelmError, match="incompatible with Kubernetes"):
        render(kube_version=kube_version)


@pytest.mark.parametrize("name", ["claim/sqlite/plain", "claim/postgres/queued"])
def test_render_is_deterministic_with_existing_secrets(name):
    """Generated secrets alone are random without an API server; see docs/helm.md."""
    values = merge(ALL[name], values_file("ci/fixed-secrets-values.yaml"))
    first = template(values)
    template.__globals__["_template"].cache_clear()
    assert template(values) == first
    assert "kind: Secret" not in first


def test_a_planted_mistake_is_found():
    (deployment,) = [o for o in render() if o["kind"] == "Deployment"]
    broken = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    assert any("replica" in line for line in errors(broken))
