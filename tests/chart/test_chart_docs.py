"""README, schema, values and notes say the same."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import chart_readme
import pytest
import yaml
from chartkit.combinations import COMBINATIONS, FILES
from chartkit.helm import CHART, IMAGE, REPO, helm, render, values_file, work_copy
from chartkit.printed import commands_of_notes, commands_of_page


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
    assert set(schema["properties"]) == set(values)
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
    assert "trainwright submit first.yaml --cluster train" in text
    assert "kubectl port-forward svc/train-mlflow 5000 -n training" in text
    assert "{{.data.username | base64decode}} {{.data.password | base64decode}}" in text


def commands_of_docs() -> list[str]:
    """Of the pages on Kubernetes."""
    names = ("helm.md", "kubernetes.md", "one-machine.md")
    pages = [(REPO / "docs" / name).read_text(encoding="utf-8") for name in names]
    return [line for page in pages for line in commands_of_page(page)]


NAMED = re.compile(
    r"kubectl (?:get|port-forward|create job --from=)(?: |=)?(configmap|secret|svc|cronjob)[ /](\S+)"
)
KINDS = {"configmap": "ConfigMap", "secret": "Secret", "svc": "Service", "cronjob": "CronJob"}


def problem_of(line: str, before: list[str], there: set[tuple[str, str]]) -> str | None:
    """What a command names that is not there: a verb or an option of ours, a file, a folder, an object of the chart."""
    import typer

    from orchestrator.cli.app import app

    verbs = typer.main.get_command(app).commands
    for part in re.split(r"; |\$ ", line):
        words = shlex.split(part)
        if words[:1] == ["trainwright"]:
            options = (
                {flag for one in verbs[words[1]].params for flag in one.opts} if words[1] in verbs else None
            )
            if options is None or not {word for word in words if word.startswith("--")} <= options:
                return f"no such verb or option: {part}"
    for path in re.findall(r"(?<![\w/.-])(?:examples|helm|docker|docs|scripts|benchmarks)/[\w./-]+", line):
        if not (REPO / path).exists() and not path.startswith("helm/trainwright/charts/"):
            return f"no such file: {path}"
    if (written := re.search(r"> (~/\S+)/[^/\s]+$", line)) and f"mkdir -p {written[1]}" not in before:
        return f"the folder is not made: {written[1]}"
    if (named := NAMED.search(line)) and (KINDS[named[1]], named[2]) not in there:
        return f"no such object: {named[0]}"
    return None


@pytest.mark.parametrize("where", ["docs", "notes", "notes with everything"])
def test_each_command_of_docs_and_notes_names_what_there_is(where):
    values = values_file("ci/everything-values.yaml") if where == "notes with everything" else {}
    lines = commands_of_docs() if where == "docs" else commands_of_notes(notes(values))
    assert len(lines) > 5
    there = {(one["kind"], one["metadata"]["name"]) for one in render({"image": IMAGE, **values})}
    problems = [problem_of(line, lines[:number], there) for number, line in enumerate(lines)]
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("trainwright submitt a.yaml", "no such verb or option: trainwright submitt a.yaml"),
        ("trainwright submit a.yaml --clusters x", "no such verb or option: trainwright submit a.yaml --clusters x"),
        ("trainwright plan examples/nothing.yaml", "no such file: examples/nothing.yaml"),
        ("kubectl get configmap a > ~/none/b.yaml", "the folder is not made: ~/none"),
        ("kubectl get secret nobody -n x", "no such object: kubectl get secret nobody"),
        ("kubectl port-forward svc/nobody 5000", "no such object: kubectl port-forward svc/nobody"),
    ],
)  # fmt: skip
def test_a_command_that_names_nothing_is_found(line, problem):
    assert problem_of(line, [], set()) == problem


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
