"""The Kubernetes backend's objects on a real API server: strict validation, CEL, quotas, ownership, and its errors."""

from __future__ import annotations

import copy

import pytest
from cluster_cases import kubernetes_profile, plan
from control_plane import ApiError, wait_until
from rayjob_cases import CASES, manifest
from release import is_there, make_namespace

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.cluster import KubernetesCluster
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.request import plan_to_rayjob, stop_patch
from orchestrator.errors import InfrastructureError, NotFoundError, ResourcesError, SpecError
from orchestrator.runs import EndReason, RunState

pytestmark = pytest.mark.usefixtures("kuberay_crds")

MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def training(control_plane):
    """The namespace that the golden manifests name."""
    make_namespace(control_plane, "training")
    return "training"


@pytest.mark.parametrize("name", CASES)
def test_every_golden_manifest_is_taken_with_unknown_fields_refused(control_plane, training, name):
    body = manifest(name)
    made = control_plane.create(body, dryRun="All", fieldValidation="Strict")
    assert kept_of(body, made) == body, "defaulting and pruning leave what we wrote"


def kept_of(sent, stored):
    """Of ``stored`` the part that ``sent`` has."""
    if isinstance(sent, dict):
        return {key: kept_of(value, stored[key]) for key, value in sent.items() if key in stored}
    if isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        return [kept_of(a, b) for a, b in zip(sent, stored, strict=True)]
    return stored


@pytest.mark.parametrize("name", CASES)
def test_every_golden_manifest_can_be_stopped(control_plane, training, name):
    """The patch of ``stop --now`` meets the CRD's rules in each of them, also where a rule looks at the old object."""
    made, profile, options = CASES[name]()
    body = plan_to_rayjob(made, profile, **options)
    stored = control_plane.create(body)
    path = control_plane.path_of(body)
    try:
        patched = control_plane.request(
            "PATCH",
            path,
            stop_patch(stored, profile, now=1000.0),
            content_type=MERGE,
            fieldValidation="Strict",
        )
        assert patched["spec"]["activeDeadlineSeconds"] == 1
        assert patched["spec"]["rayClusterSpec"] == stored["spec"]["rayClusterSpec"]
    finally:
        control_plane.delete(body)


WRONG = {
    "unknown field": (("spec", "submissionmode"), "HTTPMode", r'unknown field "spec.submissionmode"'),
    "unknown field of a pod": (
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "tolerationz"), [], "tolerationz",
    ),
    "wrong type": (("spec", "backoffLimit"), "3", "backoffLimit"),
    "not one of": (("spec", "rayClusterSpec", "authOptions", "mode"), "none", "Unsupported value"),
    "two conditions in one rule": (
        ("spec", "deletionStrategy", "deletionRules", 0, "condition"),
        {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "ttlSeconds": 0},
        "cannot be used together",
    ),
    "no condition in a rule": (
        ("spec", "deletionStrategy", "deletionRules", 0, "condition"), {"ttlSeconds": 0}, "requires either",
    ),
    "both kinds of deletion": (
        ("spec", "deletionStrategy", "onSuccess"), {"policy": "DeleteCluster"}, "cannot be used together",
    ),
    "a manager that is none": (("spec", "managedBy"), "me", "managedBy field value must be either"),
    "a name that is none": (("metadata", "name"), "Not_A_Name", "Invalid value"),
}  # fmt: skip


def wrong(name):
    """A RayJob with one mistake, and what the server says of it."""
    path, value, said = WRONG[name]
    body = copy.deepcopy(manifest("smallest"))
    node = body
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return body, said


@pytest.fixture
def rayjobs_of(control_plane, training, monkeypatch):
    """Those of a namespace by our client, as the admin."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.admin_kubeconfig))
    return lambda namespace: RayJobs(
        ApiServer(kubernetes_profile({"context": "admin", "namespace": namespace}))
    )


@pytest.fixture
def rayjobs(rayjobs_of, training):
    return rayjobs_of(training)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rayjob_is_refused_with_one_sentence(rayjobs, name):
    body, said = wrong(name)
    with pytest.raises(SpecError, match=r"^cluster prod refuses the object") as refused:
        rayjobs.create(body, dry_run=True)
    assert said in str(refused.value).replace('\\"', '"')
    assert "\n" not in str(refused.value)


# -- the backend with the submitter's own token ----------------------------------------------------------------


@pytest.fixture
def submitter(release, monkeypatch, other_crds):
    """The chart installed, and its submitter's login; returns a function that makes the backend."""

    def install(values=None):
        release.run("install", values=values)
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": release.name}}
        wait_until(
            "the quota is counted",
            lambda: release.plane.get(quota, release.namespace)["status"]["used"]["count/rayjobs.ray.io"],
            seconds=120,
        )
        config = release.plane.account_kubeconfig(release.namespace, f"{release.name}-submitter")
        monkeypatch.setenv("KUBECONFIG", str(config))
        return KubernetesCluster(release.profile())

    return install


def config_map(namespace, name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}


def rayjob(namespace, name):
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": namespace},
    }


def stored_plan(cluster, run_id):
    return plan(run_id=run_id, storage=f"{cluster.profile.storage}/runs/{run_id}")


def test_a_run_from_submission_to_its_end(control_plane, release, submitter):
    cluster = submitter()
    request = cluster.render(stored_plan(cluster, "digits-abcdefgh"))
    assert cluster.submit(request).state is RunState.PENDING
    assert cluster.submit(request).run_id == "digits-abcdefgh", "a second time it is the same run"
    job = control_plane.get(rayjob(release.namespace, "digits-abcdefgh"))
    (owner,) = control_plane.get(config_map(release.namespace, "digits-abcdefgh"))["metadata"][
        "ownerReferences"
    ]
    assert owner["uid"] == job["metadata"]["uid"]
    assert [status.run_id for status in cluster.list()] == ["digits-abcdefgh"]
    assert cluster.ping().endswith("1 runs")
    with pytest.raises(SpecError, match="stop it first"):
        cluster.resume("digits-abcdefgh")
    cluster.stop("digits-abcdefgh", now=True)
    after = control_plane.get(rayjob(release.namespace, "digits-abcdefgh"))
    assert after["spec"]["activeDeadlineSeconds"] == 1
    ended = {"status": {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}}
    control_plane.request(
        "PATCH", f"{control_plane.path_of(job)}/status", ended, content_type=MERGE
    )  # what the operator writes
    status = cluster.status("digits-abcdefgh")
    assert (status.state, status.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER), status
    assert cluster.resume("digits-abcdefgh").launch == 2
    assert is_there(control_plane, config_map(release.namespace, "digits-abcdefgh-2"))


def test_a_stop_reaches_the_config_map_and_a_watch_sees_the_rayjob_go(control_plane, release, submitter):
    cluster = submitter()
    cluster.submit(cluster.render(stored_plan(cluster, "digits-watched")))
    job = rayjob(release.namespace, "digits-watched")
    running = {"status": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}}
    control_plane.request("PATCH", f"{control_plane.path_of(job)}/status", running, content_type=MERGE)
    assert cluster.stop("digits-watched").state is RunState.STOPPING
    assert control_plane.get(config_map(release.namespace, "digits-watched"))["data"]["stop-1"] == ""
    events = cluster._rayjobs.watch("digits-watched")
    assert next(events)["metadata"]["name"] == "digits-watched"
    control_plane.delete(job)
    with pytest.raises((StopIteration, NotFoundError)):
        while True:
            next(events)
    wait_until(
        "the garbage collector takes the ConfigMap",
        lambda: not is_there(control_plane, config_map(release.namespace, "digits-watched")),
        seconds=120,
    )


def test_a_quota_of_rayjobs_is_named(release, submitter):
    cluster = submitter({"quota": {"hard": {"count/rayjobs.ray.io": 1}}})
    cluster.submit(cluster.render(stored_plan(cluster, "digits-first")))

    def is_refused():
        try:
            cluster.submit(cluster.render(stored_plan(cluster, "digits-second")))
        except ResourcesError as error:
            return str(error)
        cluster._rayjobs.delete("digits-second")
        return None

    said = wait_until("the quota counts RayJobs", is_refused, seconds=120)
    assert "exceeded quota: train" in said
    assert not is_there(release.plane, config_map(release.namespace, "digits-second"))


def test_a_quota_of_config_maps_leaves_no_rayjob_behind(release, submitter):
    """The RayJob's dry run passes; the ConfigMap's does not."""
    cluster = submitter()
    tight = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight"},
        "spec": {"hard": {"count/configmaps": 1}},
    }
    release.plane.create(tight, release.namespace)
    wait_until(
        "the quota is counted",
        lambda: release.plane.get(tight, release.namespace).get("status", {}).get("used"),
    )
    with pytest.raises(ResourcesError, match="exceeded quota"):
        cluster.submit(cluster.render(stored_plan(cluster, "digits-none")))
    assert cluster.list() == []


def test_a_namespace_that_goes_is_named(control_plane, release, rayjobs_of):
    """The server answers 403 here too; it is no missing right."""
    held = config_map(release.namespace, "held")
    held["metadata"]["finalizers"] = ["example.com/held"]
    control_plane.create(held)
    control_plane.request("DELETE", f"/api/v1/namespaces/{release.namespace}")
    body = manifest("smallest")
    body["metadata"]["namespace"] = release.namespace
    with pytest.raises(InfrastructureError, match="is being terminated"):
        rayjobs_of(release.namespace).create(body, dry_run=True)
    free = {"metadata": {"finalizers": None}}
    control_plane.request("PATCH", control_plane.path_of(held), free, content_type=MERGE)


def test_an_account_without_rights_is_told_which_one(control_plane, release, submitter, monkeypatch):
    submitter()
    config = control_plane.account_kubeconfig(release.namespace, "train-jobs")
    monkeypatch.setenv("KUBECONFIG", str(config))
    cluster = KubernetesCluster(release.profile())
    with pytest.raises(InfrastructureError, match=r"no right to create rayjobs\.ray\.io in namespace"):
        cluster.submit(cluster.render(stored_plan(cluster, "digits-no")))


def test_a_namespace_that_is_not_there_is_named(rayjobs_of):
    body = manifest("smallest")
    body["metadata"]["namespace"] = "nowhere"
    with pytest.raises(InfrastructureError, match="namespace nowhere is not there"):
        rayjobs_of("nowhere").create(body, dry_run=True)


def test_a_bad_token_is_told_to_log_in(control_plane, training, monkeypatch):
    config = control_plane.kubeconfig("stranger", token="wrong")
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(InfrastructureError, match="does not know you"):
        RayJobs(ApiServer(kubernetes_profile({"context": "stranger"}))).all_ours()


def test_a_list_comes_page_by_page(control_plane, rayjobs, training, monkeypatch):
    monkeypatch.setattr("orchestrator.clusters.kubernetes.api._PAGE", 3)
    names = [f"page-{index}" for index in range(8)]
    for name in names:
        body = manifest("smallest")
        body["metadata"] |= {"name": name, "labels": {"paged": "yes"}}
        control_plane.create(body)
    assert sorted(job["metadata"]["name"] for job in rayjobs.with_labels("paged=yes")) == names
    for name in names:
        rayjobs.delete(name)
    rayjobs.delete(names[0])


def test_a_policy_of_the_cluster_is_quoted(control_plane, rayjobs, training):
    """A ValidatingAdmissionPolicy answers 403 or 422 with its own words: they are shown, not called a missing right."""
    meta = {"name": "no-rayjobs.example.com"}
    rules = [{"apiGroups": ["ray.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["rayjobs"]}]  # fmt: skip
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": meta,
        "spec": {
            "matchConstraints": {"resourceRules": rules},
            "validations": [
                {
                    "expression": "!has(object.metadata.labels.forbidden)",
                    "message": "label forbidden is not for you",
                    "reason": "Forbidden",
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": meta,
        "spec": {"policyName": meta["name"], "validationActions": ["Deny"]},
    }
    control_plane.create(policy)
    control_plane.create(binding)
    body = manifest("smallest")
    body["metadata"]["labels"]["forbidden"] = "yes"

    def said():
        try:
            control_plane.create(body, dryRun="All")
        except ApiError as error:
            return error.message

    wait_until("the policy is in force", said)
    try:
        with pytest.raises((SpecError, InfrastructureError), match="label forbidden is not for you"):
            rayjobs.create(body, dry_run=True)
    finally:
        control_plane.delete(binding)
        control_plane.delete(policy)
