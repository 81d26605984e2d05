"""Secrets are generated once: upgrades, rollbacks and a new installation find them again.

The real helm runs against the small API server of ``chartkit.fake_api``, so ``lookup`` is the real one.
"""

from __future__ import annotations

import base64

import pytest
from chartkit.fake_api import STORAGE_CLASSES
from chartkit.helm import HelmError

GENERATED = {
    "train-ray-token": {"auth_token"},
    "train-mlflow-admin": {"username", "password", "flask-secret-key"},
    "train-mlflow-jobs": {"username", "password"},
}


def secrets(release):
    return {name: (release.api.secret(name) or {}).get("data") for name in GENERATED}


def test_install_generates_every_secret(release):
    release.run("install")
    for name, keys in GENERATED.items():
        assert set(secrets(release)[name]) == keys
        for key in keys - {"username"}:
            assert len(base64.b64decode(secrets(release)[name][key])) >= 32
    assert (
        secrets(release)["train-mlflow-admin"]["password"]
        != secrets(release)["train-mlflow-jobs"]["password"]
    )


def test_upgrades_and_rollbacks_keep_them(release):
    release.run("install")
    first = secrets(release)
    release.run("upgrade", values={"mlflow": {"workers": 3}})
    assert secrets(release) == first
    release.run("upgrade", values={"ingress": {"enabled": True, "host": "m.example.com", "tlsSecret": "tls"}})
    assert secrets(release) == first
    deployment = release.api.objects["/apis/apps/v1/namespaces/training/deployments/train-mlflow"]
    hosts = [v["value"] for v in deployment["spec"]["template"]["spec"]["containers"][0]["env"] if v["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"]  # fmt: skip
    assert "m.example.com:443" in hosts[0]
    release.run("rollback", "1")
    assert secrets(release) == first


def test_a_password_changed_by_hand_stays_changed(release):
    release.run("install")
    mine = base64.b64encode(b"a-password-of-my-own").decode()
    release.api.secret("train-mlflow-admin")["data"]["password"] = mine
    release.run("upgrade")
    assert secrets(release)["train-mlflow-admin"]["password"] == mine


def test_a_key_that_is_missing_is_added_and_others_stay(release):
    """As when a later version of the chart needs one more key."""
    release.run("install")
    before = dict(secrets(release)["train-mlflow-admin"])
    del release.api.secret("train-mlflow-admin")["data"]["flask-secret-key"]
    release.run("upgrade")
    after = secrets(release)["train-mlflow-admin"]
    assert after["password"] == before["password"]
    assert after["flask-secret-key"] not in (None, before["flask-secret-key"])


def test_uninstalling_keeps_secrets_and_volumes_and_a_new_release_takes_them_up(release):
    release.run("install")
    first = secrets(release)
    release.run("uninstall")
    left = {path.rpartition("/")[2] for path in release.api.objects if not path.startswith(STORAGE_CLASSES)}
    assert left == {*GENERATED, "train-storage", "train-mlflow"}
    release.run("install")
    assert secrets(release) == first


def test_secrets_that_are_there_already_are_not_touched(release):
    release.run(
        "install",
        values={
            "rayToken": {"existingSecret": "ray"},
            "jobs": {"mlflowSecret": "jobs"},
            "mlflow": {"existingSecret": "admin"},
        },
    )
    written = {path.rpartition("/")[2] for _, path in release.api.writes if "/secrets/" in path}
    assert {name for name in written if not name.startswith("sh.helm.release")} == set()


def test_a_secret_of_somebody_else_is_not_overwritten(release):
    path = "/api/v1/namespaces/training/secrets/train-ray-token"
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "train-ray-token", "namespace": "training"},
    }
    release.api.objects[path] = {**theirs, "data": {"auth_token": "dGhlaXJz"}}
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        release.run("install")
    assert release.api.objects[path]["data"] == {"auth_token": "dGhlaXJz"}


def test_the_notes_see_a_namespace_that_enforces_pod_security(release):
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    release.api.objects["/api/v1/namespaces/training"] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "training", "labels": label},
    }
    assert "kubectl label namespace" not in release.run("install")


def test_a_namespace_made_by_helm_can_be_taken_over(release):
    release.api.objects["/api/v1/namespaces/training"] = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "training"},
    }
    release.run("install", "--take-ownership", values={"namespace": {"create": True}})
    labels = release.api.objects["/api/v1/namespaces/training"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    release.run("uninstall")
    assert "/api/v1/namespaces/training" in release.api.objects


def test_a_dry_run_hides_secrets(release):
    out = release.run("install", "--dry-run=server", "--hide-secret")
    assert "HIDDEN: The Secret output has been suppressed" in out
    assert not release.api.writes
