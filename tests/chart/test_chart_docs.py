"""README, schema, values and notes say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import chart_readme
import pytest
import yaml
from chartkit.combinations import COMBINATIONS, FILES
from chartkit.helm import CHART, IMAGE, REPO, helm, work_copy


def test_the_readme_is_current():
    subprocess.run([sys.executable, str(REPO / "scripts" / "chart_readme.py"), "--check"], check=True)


def leaves(values, path=()):
    """Paths of the values, not entering the maps that a person fills freely."""
    for key, value in values.items():
        here = (*path, key)
        if (
            isinstance(value, dict)
            and value
            and here not in {("monitoring", "dashboardLabels"), ("mlflow", "resources")}
        ):
            yield from leaves(value, here)
        else:
            yield here


def test_every_value_is_described():
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    described = {name for name, _, _ in chart_readme.described(text)}
    assert {".".join(path) for path in leaves(yaml.safe_load(text))} == described


def test_schema_and_values_name_the_same_keys():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, part in schema["properties"].items():
        if name != "kuberay-operator" and "properties" in part:
            assert set(part["properties"]) == set(values[name]), name


def test_every_value_is_used_by_a_template():
    text = "".join(p.read_text(encoding="utf-8") for p in (CHART / "templates").rglob("*") if p.is_file())
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for path in leaves(values):
        if path[0] != "kuberay-operator":
            assert re.search(rf"\.{path[-1]}\b", text), ".".join(path)


def test_templates_hold_one_kind_each():
    for path in (CHART / "templates").rglob("*.yaml"):
        kinds = set(re.findall(r"^kind: (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert len(kinds) <= 1, path.name


def notes(values) -> str:
    out = helm(
        "install", "train", str(work_copy()), "--namespace", "training", "--dry-run=client", "--hide-secret",
        values={"image": IMAGE, **values},
    )  # fmt: skip
    return out.split("NOTES:")[1]


def test_notes_say_how_to_submit_and_to_reach_mlflow():
    text = notes({})
    assert "kubectl get configmap train-profile -n training -o jsonpath='{.data.profile\\.yaml}'" in text
    assert "> ~/.config/trainwright/clusters/train.yaml" in text
    assert "trainwright submit examples/gpt-shakespeare.yaml --cluster train" in text
    assert "kubectl port-forward svc/train-mlflow 5000 -n training" in text
    assert "{{.data.username | base64decode}} {{.data.password | base64decode}}" in text


OPEN = {
    "networkPolicy.enabled is off": {"networkPolicy": {"enabled": False}},
    "mlflow.auth is off": {"mlflow": {"auth": False}},
    "SQLite on one volume": {},
    "never backed up": {"mlflow": {"backupSchedule": ""}},
    "quota.enabled is off": {"quota": {"enabled": False}},
    "kubectl label namespace training pod-security.kubernetes.io/enforce=restricted": {},
    'enforces Pod Security "baseline" only': {"namespace": {"create": True, "podSecurity": "baseline"}},
    "reads the Secrets of every namespace": {"kuberay-operator": {"singleNamespaceInstall": False}},
    "not encrypted": {},
}


@pytest.mark.parametrize("sentence", OPEN)
def test_notes_say_what_is_not_secure(sentence):
    assert sentence in notes(OPEN[sentence]).split("Not secure yet")[1]


def test_notes_stay_quiet_where_nothing_is_open():
    text = notes(
        {
            "namespace": {"create": True},
            "mlflow": {"replicas": 2, "databaseSecret": "d", "artifacts": "s3://bucket/m"},
            "ingress": {"enabled": True, "host": "m.example.com", "tlsSecret": "tls"},
        }
    )
    assert "Nothing that the chart can see." in text
    assert "https://m.example.com" in text


@pytest.mark.parametrize("name", sorted(COMBINATIONS)[::9] + sorted(FILES))
def test_notes_render_and_hold_no_secret(name):
    text = notes({**COMBINATIONS, **FILES}[name])
    assert "What runs" in text
    assert "<no value>" not in text
    assert not re.search(r"[A-Za-z0-9]{32}", text)
