"""How a run stands, in a notebook and elsewhere."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from orchestrator import progress
from orchestrator.runs import Best, EndReason, RunState, RunStatus

STARTING = RunStatus(run_id="digits-1", state=RunState.STARTING, submitted_at=100.0)
RUNNING = STARTING.in_attempt(1, 50).reached(10, 1, {"train/loss": 1.25, "val/accuracy": 0.5})
ENDED = RUNNING.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "took all <50> steps", ended_at=175.0)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook's cell shows: each item a version of one output."""
    outputs = []

    def display(table, *, display_id):
        assert display_id
        outputs.append([table])
        return SimpleNamespace(update=outputs[-1].append)

    ipython, its_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    its_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", its_display)
    return outputs


def test_a_notebook_has_one_table_that_is_kept_up_to_date(shown, capsys):
    assert progress.shown([STARTING, RUNNING, ENDED]) is ENDED
    [versions] = shown
    assert [table.status for table in versions] == [STARTING, RUNNING, ENDED]
    assert capsys.readouterr().out == ""


def test_a_table_is_plain_html_with_what_is_known_of_the_run():
    page = progress.ProgressTable(ENDED)._repr_html_()
    assert "<script" not in page and "<progress value='0.2000'" in page
    for cell in ("digits-1", "succeeded (completed)", "took all &lt;50&gt; steps", "10/50", "1m 15s", "1.25"):
        assert f">{cell}</td>" in page
    assert repr(progress.ProgressTable(ENDED)).splitlines()[0] == f"{'run':<24} digits-1"


def test_elsewhere_each_change_is_a_line(capsys):
    progress.shown([STARTING, RUNNING])
    assert capsys.readouterr().out.splitlines() == [
        "digits-1: starting  step 0/0",
        "digits-1: running  step 10/50  train/loss 1.25",
    ]


def test_ipython_without_a_kernel_is_a_terminal(shown, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    progress.shown([RUNNING])
    assert shown == [] and "10/50" in capsys.readouterr().out


def test_rows_name_the_best_checkpoint():
    best = RUNNING.with_best(Best(metric="val/accuracy", step=10, value=0.5))
    assert ("best", "val/accuracy 0.5 at step 10") in progress.rows(best)
