"""A claim that could never be bound is refused at install. The real helm, looking into a small API server."""

from __future__ import annotations

import pytest
from chartkit.fake_api import STORAGE_CLASSES
from chartkit.helm import HelmError

CLAIM = "/api/v1/namespaces/training/persistentvolumeclaims/train-storage"


@pytest.fixture
def without_classes(release):
    del release.api.objects[f"{STORAGE_CLASSES}/shared"]
    return release


def test_no_default_class(without_classes):
    without_classes.api.storage_class("fast", "nfs.example.com")
    with pytest.raises(HelmError, match=r"storage.storageClass is empty .* \(it has: fast\)"):
        without_classes.run("install")
    without_classes.run("install", values={"storage": {"storageClass": "fast"}, "mlflow": {"enabled": False}})


def test_a_class_that_is_not_there(release):
    with pytest.raises(
        HelmError, match=r"storage.storageClass is fats, which this cluster doesn't have \(it has: shared\)"
    ):
        release.run("install", values={"storage": {"storageClass": "fats"}})
    with pytest.raises(HelmError, match=r"mlflow.storageClass is fats"):
        release.run("install", values={"mlflow": {"storageClass": "fats"}})
    release.run("install", values={"storage": {"storageClass": "fats"}, "checks": {"storage": False}})


def test_a_claim_that_is_not_there(release):
    with pytest.raises(
        HelmError, match=r"storage.existingClaim is mine, but namespace training has no such claim"
    ):
        release.run("install", values={"storage": {"existingClaim": "mine"}})


@pytest.mark.parametrize("provisioner", ["rancher.io/local-path", "ebs.csi.aws.com", "pd.csi.storage.gke.io"])
def test_volumes_for_one_node_are_refused_for_several(without_classes, provisioner):
    without_classes.api.storage_class("standard", provisioner, default=True)
    without_classes.api.nodes(2)
    with pytest.raises(HelmError, match=r"volumes of StorageClass standard .* one node at a time"):
        without_classes.run("install")


def test_one_node_needs_no_shared_volumes_and_the_claim_keeps_its_mode(without_classes):
    without_classes.api.storage_class("standard", "rancher.io/local-path", default=True)
    without_classes.api.nodes(1)
    without_classes.run("install")
    assert without_classes.api.objects[CLAIM]["spec"]["accessModes"] == ["ReadWriteOnce"]
    without_classes.api.nodes(3)
    without_classes.run("upgrade", values={"mlflow": {"workers": 3}})
    assert without_classes.api.objects[CLAIM]["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_one_node_with_shared_volumes_shares_them(release):
    release.api.nodes(1)
    release.run("install")
    assert release.api.objects[CLAIM]["spec"]["accessModes"] == ["ReadWriteMany"]
