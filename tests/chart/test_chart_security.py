"""Pod Security, rights, and where secrets may stand."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml
from chartkit.combinations import COMBINATIONS, FILES, render_combination
from chartkit.helm import MONITORING, find, operator_chart, pod_templates, render, template
from chartkit.podsecurity import violations

GOLDEN = Path(__file__).parent / "golden"
EVERYTHING = FILES["ci/everything-values.yaml"]
SECRET_WORDS = ("password", "token", "secret", "credential", "key")


@pytest.mark.parametrize(
    "name", ["ci/default-values.yaml", "ci/everything-values.yaml", "presets/eks-gpu.yaml"]
)
def test_every_pod_template_is_restricted(name):
    """The matrix checks this for every combination as well."""
    templates = pod_templates(render(FILES[name]))
    assert templates
    assert [f"{where}: {v}" for where, pod in templates for v in violations(pod)] == []


def test_the_operators_pod_is_restricted():
    if operator_chart() is None:
        pytest.skip("the operator's own chart is not at hand (TRAINWRIGHT_KUBERAY_CHECKOUT)")
    pods = pod_templates(
        [o for o in render(with_operator=True) if o["metadata"]["name"] == "kuberay-operator"]
    )
    assert pods
    assert [violations(pod) for _, pod in pods] == [[]] * len(pods)


BREAKS = {
    "privileged": {"privileged": True},
    "escalation": {"allowPrivilegeEscalation": True},
    "root": {"runAsUser": 0},
    "capability": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
    "seccomp": {"seccompProfile": {"type": "Unconfined"}},
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_checker_finds_what_is_not_restricted(name):
    ((_, pod),) = pod_templates([find(render(), "Deployment", "train-mlflow")])
    pod["spec"]["containers"][0]["securityContext"].update(BREAKS[name])
    assert len(violations(pod)) == 1


@pytest.mark.parametrize(
    "field, value", [("hostNetwork", True), ("volumes", [{"name": "x", "hostPath": {"path": "/"}}])]
)
def test_the_checker_finds_what_reaches_the_host(field, value):
    ((_, pod),) = pod_templates([find(render(), "Deployment", "train-mlflow")])
    pod["spec"][field] = value
    assert len(violations(pod)) == 1


def rights(values) -> dict[str, list[str]]:
    """Who may do what: subject -> "verbs resources" lines, as the golden file holds them."""
    objects = render(values)
    roles = {o["metadata"]["name"]: o["rules"] for o in objects if o["kind"] == "Role"}
    table: dict[str, list[str]] = {
        f"ServiceAccount {o['metadata']['name']}": [] for o in objects if o["kind"] == "ServiceAccount"
    }
    for binding in (o for o in objects if o["kind"] == "RoleBinding"):
        for subject in binding["subjects"]:
            lines = table.setdefault(f"{subject['kind']} {subject['name']}", [])
            for rule in roles[binding["roleRef"]["name"]]:
                resources = [f"{r}.{g}" if g else r for g in rule["apiGroups"] for r in rule["resources"]]
                lines.append(f"{', '.join(rule['verbs'])}: {', '.join(resources)}")
    return table


def test_rights_are_those_of_the_golden_file():
    golden = yaml.safe_load((GOLDEN / "rights.yaml").read_text(encoding="utf-8"))
    assert rights(EVERYTHING) == golden


@pytest.mark.parametrize("name", sorted(COMBINATIONS)[::7] + sorted(FILES))
def test_no_role_reads_secrets_but_by_name_or_has_wildcards(name):
    objects = render_combination(name)
    assert not [o for o in objects if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    for role in (o for o in objects if o["kind"] == "Role"):
        for rule in role["rules"]:
            if "secrets" in rule["resources"]:
                # to sign in at dashboards as jobs do, which submitters could anyhow
                assert role["metadata"]["name"].endswith("-dashboards")
                assert (rule["resources"], rule["verbs"]) == (["secrets"], ["get"])
                assert rule["resourceNames"]
                assert not any(name.endswith("-admin") for name in rule["resourceNames"])
            assert not any("*" in part for part in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]))
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


@pytest.mark.parametrize("name", sorted(COMBINATIONS)[::5] + sorted(FILES))
def test_secrets_stand_in_secrets_alone(name):
    objects = render_combination(name)
    secret_values = [
        base64.b64decode(value).decode()
        for o in objects
        if o["kind"] == "Secret"
        for key, value in o["data"].items()
        if key != "username"
    ]
    assert all(len(value) >= 32 for value in secret_values)
    rest = yaml.safe_dump([o for o in objects if o["kind"] != "Secret"])
    assert not [value for value in secret_values if value in rest]
    for where, pod in pod_templates(objects):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env") or []:
                secret_like = any(word in variable["name"].lower() for word in SECRET_WORDS)
                assert not (secret_like and "value" in variable), f"{where}: {variable['name']} has a value"


def test_values_take_no_secret():
    """There is no value to write a password into: only names of Secrets."""
    values = yaml.safe_load(
        (Path(__file__).parents[2] / "helm/trainwright/values.yaml").read_text(encoding="utf-8")
    )

    def names(value, path=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from names(inner, f"{path}.{key}")
        else:
            yield path

    suspicious = [
        n for n in names(values) if any(w in n.lower() for w in ("password", "token", "credential"))
    ]
    assert suspicious == [".rayToken.existingSecret"]


def test_the_servers_secrets_are_files():
    (server,) = [o for o in render() if o["kind"] == "Deployment"]
    container = server["spec"]["template"]["spec"]["containers"][0]
    assert not [v for v in container["env"] if "secretKeyRef" in (v.get("valueFrom") or {})]
    assert {m["mountPath"] for m in container["volumeMounts"]} >= {"/secrets/mlflow", "/secrets/jobs"}


def test_two_renders_generate_different_secrets():
    template.__globals__["_template"].cache_clear()
    first = find(render(), "Secret", "train-ray-token")
    template.__globals__["_template"].cache_clear()
    assert find(render(), "Secret", "train-ray-token") != first


def test_nothing_runs_an_advised_against_setting():
    text = template(EVERYTHING, api_versions=(MONITORING,))
    assert "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA" not in text
    assert "hostPath" not in text
    assert ":latest" not in text
    assert "LoadBalancer" not in text
    assert "NodePort" not in text
