"""Dashboards and alerts read metrics that exist, with labels that exist."""

from __future__ import annotations

import json
import re

import pytest
from chartkit.helm import MONITORING, REPO, find, render
from chartkit.metrics import OTHERS, PARTS, TAGS, TRAINWRIGHT

LABELS = {"namespace", "service", "instance", "ray_io_cluster", "part", "cluster_queue", "status", "le", "Name", "State", "deployment_status"} | TAGS  # fmt: skip
METRIC = re.compile(r"\b(ray_[a-z_]+|kueue_[a-z_]+|kuberay_[a-z_]+|mlflow_[a-z_]+|up)\b(?=\s*[{)]|$|\s)")


def boards():
    objects = render()
    for name in ("runs", "platform"):
        data = find(objects, "ConfigMap", f"train-dashboard-{name}")["data"]
        yield name, json.loads(data[f"trainwright-{name}.json"])


def expressions() -> dict[str, str]:
    found = {}
    for name, board in boards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                found[f"{name}: {panel['title']}: {target['refId']}"] = target["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found[f"{name}: ${variable['name']}"] = re.sub(
                    r"^label_values\((.*), *\w+\)$", r"\1", variable["query"]["query"]
                )
    rule = find(render(api_versions=(MONITORING,)), "PrometheusRule", "train")
    for alert in rule["spec"]["groups"][0]["rules"]:
        found[f"alert: {alert['alert']}"] = alert["expr"]
    return found


@pytest.mark.parametrize("name", expressions())
def test_expression_reads_known_metrics_and_labels(name):
    expression = expressions()[name]
    metrics = {m for m in METRIC.findall(expression) if m not in LABELS}
    assert metrics, expression
    assert metrics <= TRAINWRIGHT | OTHERS, metrics - TRAINWRIGHT - OTHERS
    labels = set(re.findall(r"[{,]\s*([A-Za-z_]+)\s*(?:=~|!~|!=|=)", expression))
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|on)\s*\(([^)]*)\)", expression))))
    assert labels | grouped <= LABELS, labels | grouped
    assert set(re.findall(r'part="([^"]*)"', expression)) <= PARTS
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)
    if "kueue" not in expression:
        assert 'namespace="training"' in expression


def test_every_metric_of_the_loop_is_shown():
    text = " ".join(expression for name, expression in expressions().items() if not name.startswith("alert"))
    assert not [metric for metric in TRAINWRIGHT if metric not in text]


def test_alerts_are_those_of_the_guide():
    rules = find(render(api_versions=(MONITORING,)), "PrometheusRule", "train")["spec"]["groups"][0]["rules"]
    names = [rule["alert"] for rule in rules]
    assert names == ["TrainwrightRunStalled", "TrainwrightRestartLoop", "TrainwrightCheckpointTooOld", "TrainwrightGpuIdle", "TrainwrightMlflowDown"]  # fmt: skip
    guide = (REPO / "docs" / "helm.md").read_text(encoding="utf-8")
    for rule in rules:
        assert rule["alert"] in guide
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_alert_texts_keep_prometheus_templates():
    rules = find(render(api_versions=(MONITORING,)), "PrometheusRule", "train")["spec"]["groups"][0]["rules"]
    assert rules[0]["annotations"]["summary"] == "Run {{ $labels.run }} makes no steps"
    assert "{{ $labels.instance }}" in rules[3]["annotations"]["description"]


@pytest.mark.parametrize("index", [0, 1])
def test_dashboard_is_well_formed(index):
    _, board = list(boards())[index]
    assert board["uid"].startswith("trainwright-")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"


def test_the_guide_lists_the_metrics():
    guide = (REPO / "docs" / "helm.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(ray_trainwright_[a-z_]+)`", guide))
    assert listed == TRAINWRIGHT
