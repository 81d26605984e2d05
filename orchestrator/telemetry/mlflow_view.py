"""The view of an experiment's runs that comes with it: which columns stand first, and which charts.

MLflow's pages keep a person's own layout in that person's browser. The one layout that a server holds is a shared view: a
tag of the experiment, which a link names. Its form is that of MLflow 3.17's pages (``ExperimentPageUIState``); pages that
do not know a field pass over it.
"""

from __future__ import annotations

import json
from typing import Any

_NAME = "trainwright"
VIEW_TAG = f"mlflow.sharedViewState.{_NAME}"
NOTE_TAG = "mlflow.note.content"
_COLUMNS = (
    *(("metrics", name) for name in ("val/loss", "val/accuracy", "train/loss")),
    *(("tags", name) for name in ("family", "strategy", "cluster")),
    *(("attributes", name) for name in ("Dataset", "Models", "User", "Version", "Source")),
)
_COMPARED = ("training.optimizer.learning_rate", "training.global_batch_size", "plan.world_size")
"""Parameters of the first chart, which are numbers in every job."""
_CHARTS = {
    "Comparison": (("train/loss", "val/loss"),),
    "val": (("val/loss",), ("val/accuracy",)),
    "train": (("train/loss",), ("train/learning_rate",), ("train/grad_norm",)),
}
"""By section the metrics of each chart of lines."""
_FOLDED = "System metrics"


def view_state() -> str:
    """What the tag holds: JSON."""
    sections = [_section(name, is_open=True) for name in _CHARTS] + [_section(_FOLDED, is_open=False)]
    charts: list[dict[str, Any]] = [_comparison("Comparison")]
    charts += [_lines(section, metrics) for section, of_section in _CHARTS.items() for metrics in of_section]
    columns = [f"{kind}.`{name}`" for kind, name in _COLUMNS]
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else sections are put in the order of the alphabet
    }
    return json.dumps(state, separators=(",", ":"))


def address(experiment_id: str) -> str:
    """The page of the view, behind a server's address."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={_NAME}&workflowType=machine_learning"


def note(experiment_id: str) -> str:
    """What the experiment says of itself, in Markdown."""
    return (
        f"Runs of trainwright. [Columns and charts that come with it]({address(experiment_id).lstrip('/')})."
    )


def _section(name: str, *, is_open: bool) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": is_open, "isReordered": True, "deleted": False}


def _comparison(section: str) -> dict[str, Any]:
    return {
        "type": "PARALLEL",
        "uuid": "parallel",
        "metricSectionId": section,
        "isGenerated": False,
        "deleted": False,
        "selectedParams": list(_COMPARED),
        "selectedMetrics": ["val/loss"],
        "showAllRuns": False,
        "runsCountToCompare": 100,
    }


def _lines(section: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": f"{section}:{'+'.join(metrics)}",
        "metricSectionId": section,
        "isGenerated": False,
        "deleted": False,
        "metricKey": metrics[0],
        "selectedMetricKeys": list(metrics),
        "displayName": " and ".join(metrics),
        "runsCountToCompare": 10,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
