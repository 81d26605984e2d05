"""What the chart's accounts may do, asked of RBAC itself and tried with their own tokens."""

from __future__ import annotations

import pytest
from chartkit.combinations import FILES
from control_plane import ApiError
from release import Release, make_namespace

from orchestrator.clusters.doctor.examine import doctor
from orchestrator.clusters.doctor.kubernetes import RIGHTS

pytestmark = pytest.mark.usefixtures("kuberay_crds", "other_crds")

PEOPLE = {"submitters": [{"kind": "Group", "name": "data-science"}, {"kind": "ServiceAccount", "name": "ci"}]}
CORE, RAY = "/api/v1/namespaces/{}", "/apis/ray.io/v1/namespaces/{}"


@pytest.fixture(scope="module")
def release(control_plane, tmp_path_factory):
    """The default installation, with a group and an account of somebody else as submitters."""
    make_namespace(control_plane, "rights")
    made = Release(control_plane, tmp_path_factory.mktemp("helm"), "rights")
    control_plane.create(account("ci"), "rights")
    made.run("install", values=PEOPLE)
    make_namespace(control_plane, "elsewhere")
    return made


def account(name):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}


def rules(plane, namespace, name):
    """Every right of an account in a namespace, as the authorizer lists them: (verb, resource.group, object's name)."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    token = plane.account_token("rights", name)
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    status = plane.request("POST", path, review, token=token)["status"]
    assert not status["incomplete"]
    return {
        (verb, f"{resource}.{group}".rstrip("."), tuple(rule.get("resourceNames", [])))
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def golden(subject):
    """The rights of a subject as the chart's golden table has them, without Kueue's."""
    import yaml
    from chartkit.helm import REPO

    table = yaml.safe_load((REPO / "tests/chart/golden/rights.yaml").read_text())
    found = set()
    for line in table[subject]:
        verbs, resources = line.split(": ")
        found |= {(verb, resource, ()) for verb in verbs.split(", ") for resource in resources.split(", ")}
    return {right for right in found if "kueue" not in right[1]}


@pytest.mark.parametrize("name", ["train-submitter", "ci"])
def test_submitters_have_the_rights_of_the_table_and_no_other(control_plane, release, name):
    everybody = rules(control_plane, "rights", "default")
    assert rules(control_plane, "rights", name) - everybody == golden("ServiceAccount platform-submitter")
    assert rules(control_plane, "elsewhere", name) == rules(control_plane, "elsewhere", "default")


@pytest.mark.parametrize("name", ["train-jobs", "train-mlflow"])
def test_jobs_and_mlflow_have_no_right_that_not_everybody_has(control_plane, release, name):
    for namespace in ("rights", "elsewhere", "kube-system"):
        assert rules(control_plane, namespace, name) == rules(control_plane, namespace, "default")


def test_the_table_holds_what_doctor_asks_for():
    granted = {(verb, resource) for verb, resource, _ in golden("ServiceAccount platform-submitter")}
    assert {(verb, f"{resource}.{group}".rstrip(".")) for verb, resource, group in RIGHTS} <= granted


REFUSED = {
    "list secrets": ("GET", CORE + "/secrets", None),
    "read the token": ("GET", CORE + "/secrets/train-ray-token", None),
    "create a pod": ("POST", CORE + "/pods", {"kind": "Pod"}),
    "delete pods": ("DELETE", CORE + "/pods", None),
    "run a command in a pod": ("POST", CORE + "/pods/any/exec?command=sh", None),
    "list config maps": ("GET", CORE + "/configmaps", None),
    "delete a config map": ("DELETE", CORE + "/configmaps/train-profile", None),
    "create a RayCluster": ("POST", RAY + "/rayclusters", {"kind": "RayCluster"}),
    "overwrite a RayJob": ("PUT", RAY + "/rayjobs/any", {"kind": "RayJob"}),
    "delete all RayJobs": ("DELETE", RAY + "/rayjobs", None),
    "change a RayJob's status": ("PATCH", RAY + "/rayjobs/any/status", {}),
    "get a token of another account": ("POST", CORE + "/serviceaccounts/train-mlflow/token", {}),
    "give itself rights": ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings", {}),
    "raise the quota": ("PATCH", CORE + "/resourcequotas/train", {}),
    "read nodes": ("GET", "/api/v1/nodes", None),
    "read other namespaces": ("GET", "/api/v1/namespaces", None),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_submitter_may_not(control_plane, release, what):
    method, path, body = REFUSED[what]
    token = control_plane.account_token("rights", "train-submitter")
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with pytest.raises(ApiError, match="cannot") as refused:
        control_plane.request(method, path.format("rights"), body, token=token, content_type=kind)
    assert refused.value.status == 403


@pytest.mark.parametrize("path", [RAY + "/rayjobs", CORE + "/pods", CORE + "/configmaps/train-profile"])
def test_a_submitter_reads_nothing_elsewhere(control_plane, release, path):
    token = control_plane.account_token("rights", "train-submitter")
    control_plane.request("GET", path.format("rights"), token=token)
    with pytest.raises(ApiError, match="cannot") as refused:
        control_plane.request("GET", path.format("elsewhere"), token=token)
    assert refused.value.status == 403


def test_nobody_reads_anything_without_a_token(control_plane, release):
    with pytest.raises(ApiError) as refused:
        control_plane.request("GET", CORE.format("rights") + "/configmaps/train-profile", token="")
    assert refused.value.status in (401, 403)


def test_a_group_of_people_has_the_same_rights(control_plane, release):
    """A person by a certificate, as an OIDC login would be."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": "ada", "groups": ["data-science"]},
    }
    for verb, resource, group in RIGHTS:
        name, _, sub = resource.partition("/")
        for namespace, expected in (("rights", True), ("elsewhere", False)):
            review["spec"]["resourceAttributes"] = {
                "namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": sub,
            }  # fmt: skip
            assert control_plane.create(review)["status"]["allowed"] is expected, (verb, resource, namespace)


def test_doctor_finds_every_right_with_the_submitters_token(control_plane, release, monkeypatch):
    config = control_plane.account_kubeconfig("rights", "train-submitter")
    monkeypatch.setenv("KUBECONFIG", str(config))
    checks = {check.name: check for check in doctor(release.profile())}
    assert checks["reachable"].outcome == checks["KubeRay"].outcome == "pass", checks
    assert (checks["rights"].outcome, checks["rights"].message) == (
        "pass",
        f"all {len(RIGHTS)} that runs need in namespace rights",
    )
    assert "Pending" in checks["storage claim"].message


def test_doctor_names_every_right_that_the_jobs_account_lacks(control_plane, release, monkeypatch):
    config = control_plane.account_kubeconfig("rights", "train-jobs")
    monkeypatch.setenv("KUBECONFIG", str(config))
    checks = {check.name: check for check in doctor(release.profile())}
    assert checks["rights"].outcome == "fail"
    for verb, resource, _ in RIGHTS:
        assert f"{verb} {resource}" in checks["rights"].message


def test_a_queue_adds_kueues_objects_to_the_rights(control_plane, release, tmp_path):
    make_namespace(control_plane, "rights-queue")
    queued = Release(control_plane, tmp_path, "rights-queue", "queued")
    queued.run("install", values={"kueue": {"enabled": True}})
    token = control_plane.account_token("rights-queue", "queued-submitter")
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/rights-queue/workloads"
    assert control_plane.request("GET", path, token=token)["items"] == []
    with pytest.raises(ApiError, match="cannot"):
        control_plane.request("GET", path.replace("workloads", "localqueues/queued"), token=control_plane.account_token("rights", "train-submitter"))  # fmt: skip


def test_everything_values_bind_the_account_of_another_namespace(control_plane, tmp_path):
    (bound,) = [s for s in FILES["ci/everything-values.yaml"]["submitters"] if s["kind"] == "ServiceAccount"]
    make_namespace(control_plane, "rights-there")
    make_namespace(control_plane, bound["namespace"])
    control_plane.create(account(bound["name"]), bound["namespace"])
    there = Release(control_plane, tmp_path, "rights-there")
    there.run("install", values={"submitters": [bound]})
    token = control_plane.account_token(bound["namespace"], bound["name"])
    assert control_plane.request("GET", RAY.format("rights-there") + "/rayjobs", token=token)["items"] == []
