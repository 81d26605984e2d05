"""``init`` writes a job that runs as it is, for every family."""

import time

import pytest

from orchestrator import cli, data, sdk, worker
from orchestrator.cli.first_job.bundled import FAMILIES


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One for all, so that bundled data is written once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def folder(tmp_path, monkeypatch, home):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["trainwright", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_first_job_plans_as_written_and_trains(folder, monkeypatch, family):
    assert call(monkeypatch, "init", "first.yaml", "--family", family) == 0
    assert sdk.make_plan("first.yaml").total_steps >= 100, "long enough to learn something"
    few = ["training.epochs=null", "training.max_steps=2", "training.schedule.warmup_steps=0"]
    alone = ["scaling.workers=1", "tracking.kind=none", "data.reader=worker", "data.eval.fraction=0.02"]
    plan = sdk.make_plan("first.yaml", overrides=[*few, *alone])
    told = {
        "plan": plan.model_dump_json(),
        "prepared": data.prepare(plan).model_dump_json(),
        "launch": 1,
        "started_at": time.time(),
    }
    assert worker.run(told)["step"] == 2


def test_the_name_is_the_file_s_as_far_as_a_name_can_be(folder, monkeypatch):
    assert call(monkeypatch, "init", "My first Job " + 30 * "x " + ".yaml") == 0
    (file,) = folder.glob("*.yaml")
    assert sdk.make_plan(file).job.name == "my-first-job-x-x-x-x-x-x-x-x-x-x-x-x-x-x"


def test_a_file_that_is_there_stays(folder, monkeypatch, capsys):
    (folder / "job.yaml").write_text("mine")
    assert call(monkeypatch, "init") == 2
    assert "job.yaml is there already; --force overwrites it" in capsys.readouterr().err
    assert (folder / "job.yaml").read_text() == "mine"
    assert call(monkeypatch, "init", "--force") == 0


def test_a_model_of_one_s_own_that_is_there_stays(folder, monkeypatch, capsys):
    (folder / "my_models.py").write_text("mine")
    assert call(monkeypatch, "init", "--family", "custom") == 2
    assert "my_models.py is there already; --force overwrites it" in capsys.readouterr().err
    assert (folder / "my_models.py").read_text() == "mine"
    assert not (folder / "job.yaml").exists()
