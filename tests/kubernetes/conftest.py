"""One control plane of real processes for all tests of this folder; without its binaries each test is skipped."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import control_plane as control_planes
import kuberay
import pytest
import yaml

HERE = Path(__file__).resolve().parent

_COUNTER = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in this folder where no control plane can be started."""
    if reason := control_planes.missing():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def ended_in_order() -> Iterator[None]:
    """A SIGTERM, too, ends what was started here, as Ctrl-C does: network devices and mounts outlive processes."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory) -> Iterator[control_planes.ControlPlane]:
    """The control plane, on the loopback address, with a default StorageClass."""
    from release import make_storage_class

    with control_planes.running(tmp_path_factory.mktemp("control-plane")) as plane:
        make_storage_class(plane)
        yield plane


@pytest.fixture(scope="session")
def kube(tmp_path_factory) -> Iterator[kuberay.KubeRay]:
    """Another control plane, with KubeRay's operator and nodes whose pods run; skips where that can't be."""
    if reason := kuberay.missing(tmp_path_factory.mktemp("probe")):
        pytest.skip(reason)
    with kuberay.running(tmp_path_factory.mktemp("kuberay")) as made:
        yield made


@pytest.fixture(scope="session")
def kuberay_crds(control_plane) -> None:
    """KubeRay's CRDs on the API server; skips the test where they are not at hand."""
    from chartkit.strict import crd_files

    for kind in ("ray.io/RayJob", "ray.io/RayCluster"):
        if kind not in crd_files():
            pytest.skip(f"the CRD of {kind} is not at hand (../shared/crds, or the folder TRAINWRIGHT_CRDS)")
        install_crd(control_plane, yaml.load(crd_files()[kind].read_text(), yaml.CSafeLoader))


@pytest.fixture
def release(control_plane, tmp_path, request):
    """A release of the chart, not yet installed, in a namespace of its own that enforces Pod Security "restricted"."""
    from release import Release, make_namespace

    name = re.sub("[^a-z]+", "-", request.node.name.lower().removeprefix("test_"))[:40].strip("-")
    namespace = f"{name}-{next(_COUNTER)}"
    make_namespace(control_plane, namespace)
    return Release(control_plane, tmp_path, namespace)


@pytest.fixture(scope="session")
def other_crds(control_plane) -> None:
    """CRDs of Kueue and the Prometheus operator: their own from TRAINWRIGHT_CRDS, else ones that take any spec."""
    from chartkit.strict import crd_files

    for group, version, kind, scope in (
        ("kueue.x-k8s.io", "v1beta2", "ResourceFlavor", "Cluster"),
        ("kueue.x-k8s.io", "v1beta2", "ClusterQueue", "Cluster"),
        ("kueue.x-k8s.io", "v1beta2", "LocalQueue", "Namespaced"),
        ("kueue.x-k8s.io", "v1beta2", "Workload", "Namespaced"),
        ("monitoring.coreos.com", "v1", "PodMonitor", "Namespaced"),
        ("monitoring.coreos.com", "v1", "ServiceMonitor", "Namespaced"),
        ("monitoring.coreos.com", "v1", "PrometheusRule", "Namespaced"),
    ):
        if file := crd_files().get(f"{group}/{kind}"):
            install_crd(control_plane, yaml.load(file.read_text(), yaml.CSafeLoader))
        else:
            install_crd(control_plane, open_crd(group, version, kind, scope))


def install_crd(plane: control_planes.ControlPlane, crd: control_planes.Object) -> None:
    """Apply a CRD and wait until its kind is served."""
    crd["metadata"].setdefault("annotations", {})["api-approved.kubernetes.io"] = "unapproved, for tests"
    plane.apply(crd)
    version = next(version["name"] for version in crd["spec"]["versions"] if version["storage"])
    of_its_kind = {
        "apiVersion": f"{crd['spec']['group']}/{version}",
        "kind": crd["spec"]["names"]["kind"],
        "metadata": {"name": "any"},
    }
    control_planes.wait_until(
        f"{of_its_kind['kind']} is served", lambda: plane.path_of(of_its_kind, "default")
    )


def open_crd(group: str, version: str, kind: str, scope: str) -> control_planes.Object:
    """A CRD that takes any spec."""
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": names,
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }
