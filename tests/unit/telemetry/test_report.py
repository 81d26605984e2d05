"""The page that a run leaves in MLflow: its end, its curves, where its time went."""

import math

import pytest
from data_jobs import job_of, plan_of

from orchestrator.ledger import Ledger
from orchestrator.telemetry.report import Curve, report_page
from orchestrator.telemetry.spool import FileSpool, Part, Spool


@pytest.fixture
def plan(tmp_path):
    return plan_of(job_of({"train": {"kind": "builtin", "name": "iris"}}), tmp_path)


LEDGER = Ledger(seconds={"data wait": 1.0, "step": 3.0}, steps=11)


def test_it_shows_the_end_the_newest_metrics_the_curves_and_the_seconds(plan):
    writer = FileSpool(plan.storage, Part(1, 0))
    writer.log(1, {"train/loss": 2.0})
    writer.log(11, {"train/loss": 1.5})
    writer.log(11, {"val/accuracy": 0.75, "val/<b>": math.nan})
    writer.close()
    page = report_page(plan, Spool(plan.storage), "FINISHED", LEDGER).decode()
    assert "<td>end</td><td>finished</td>" in page and plan.run_id in page
    assert "<td>train/loss</td><td>1.5</td>" in page and "<td>val/accuracy</td><td>0.75</td>" in page
    assert page.count("<svg") == 2, "of what is no number there is no curve"
    assert "<td>step</td><td>3.0 s (75%)</td>" in page and "<td>data wait</td><td>1.0 s (25%)</td>" in page
    assert "<td>4.0 s, 75.0% of it effective training time</td>" in page
    assert "http" not in page, "nothing is loaded from elsewhere"


def test_a_run_that_took_no_step_has_a_page_too(plan):
    page = report_page(plan, Spool(plan.storage), "FAILED", None).decode()
    assert "<td>end</td><td>failed</td>" in page and "<svg" not in page


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    curve = Curve()
    for step in range(1, 100_001):
        curve.add(step, float(step))
    points = curve.points()
    assert 200 <= len(points) <= 402
    assert points[0] == (1, 1.0) and points[-1] == (100_000, 100_000.0)
    curve.add(100_000, 5.0)
    assert curve.points()[-1] == (100_000, 5.0), "what was logged again counts as it was last"
