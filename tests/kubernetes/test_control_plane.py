"""The control plane itself: what other tests of this folder take for granted."""

from __future__ import annotations

import pytest
from control_plane import ApiError, wait_until


def test_every_health_check_passes_and_the_version_is_known(control_plane):
    assert control_plane.request("GET", "/readyz")["text"] == "ok"
    assert control_plane.request("GET", "/version")["gitVersion"].startswith("v1.")


def test_a_service_account_has_its_own_name_and_no_rights(control_plane):
    token = control_plane.account_token("default", "default")
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = control_plane.request(
        "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, token=token
    )
    assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"
    with pytest.raises(ApiError, match="cannot list resource") as refused:
        control_plane.request("GET", "/api/v1/namespaces/default/pods", token=token)
    assert refused.value.status == 403


def test_what_an_object_owns_is_collected_after_it(control_plane):
    maps = "/api/v1/namespaces/default/configmaps"
    owner = control_plane.request("POST", maps, {"metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    control_plane.request("POST", maps, {"metadata": {"name": "owned", "ownerReferences": [reference]}})
    control_plane.request("DELETE", f"{maps}/owner")

    def is_gone():
        try:
            control_plane.request("GET", f"{maps}/owned")
        except ApiError as error:
            return error.status == 404

    wait_until("the owned ConfigMap is gone", is_gone)
