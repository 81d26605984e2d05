"""Predictions and metrics of a trained model from the command line: real Ray, real kills."""

import contextlib
import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import ask, sdk
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.clusters.local.request import plan_to_process
from orchestrator.clusters.shared.driver_command import DRIVER
from orchestrator.data.sources.builtin import materialize
from orchestrator.errors import SpecError
from orchestrator.planning.plan import Plan
from orchestrator.records import SUBMITTED, RunRecord
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import store_at
from orchestrator.waited import name_of_pod

pytestmark = pytest.mark.ray

ROWS, ROWS_PER_GROUP = 160, 2


@pytest.fixture(scope="module")
def run(home):
    job = home.job(
        training={"max_steps": 40, "evaluate_every": 20, "log_every": 20},
        scaling={"workers": 1},
        checkpoint={"every_steps": 20, "keep": {"last": 2}},
    )
    answer = home.call("run", str(job))
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr
    return next(line.split()[1] for line in answer.stdout.splitlines() if line.startswith("run "))


@pytest.fixture(scope="module")
def patients(home):
    """Rows with the columns of the bundled table, in files of a pattern."""
    known = materialize("breast_cancer", str(home.folder / "cache"))
    table = pq.read_table(known).slice(0, ROWS)
    table = table.append_column("patient", pa.array([f"p{row}" for row in range(ROWS)]))
    (home.folder / "new").mkdir()
    for number in range(2):
        share = table.slice(number * ROWS // 2, ROWS // 2)
        pq.write_table(share, home.folder / "new" / f"part-{number}.parquet", row_group_size=ROWS_PER_GROUP)
    return table


def predicted(home, run, output, *more):
    answer = home.call(
        "predict", run, "--data", "new/part-0.parquet", "new/part-1.parquet", "--output", output, *more
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def files(folder: Path) -> dict[str, bytes]:
    """What readers of the folder see: a process that was killed may leave a hidden draft."""
    return {one.name: one.read_bytes() for one in folder.iterdir() if not one.name.startswith(".")}


@pytest.fixture(scope="module")
def by_one(home, run, patients):
    told = predicted(home, run, "by-one")
    assert f"80 files by the model of step 40; wrote {ROWS} rows now" in told
    return home.folder / "by-one"


def test_each_row_is_answered_once_and_in_order(by_one, patients):
    answers = pq.read_table(by_one)
    assert answers["patient"].to_pylist() == patients["patient"].to_pylist()
    right = [one == label for one, label in zip(answers["class"], answers["label"], strict=True)]
    assert sum(right) / ROWS > 0.8


def test_two_workers_write_the_same_files(home, run, by_one):
    told = json.loads(predicted(home, run, "by-two", "--workers", "2", "--json"))
    assert (told["parts"], told["rows"]) == (80, ROWS)
    assert files(home.folder / "by-two") == files(by_one)


@pytest.mark.slow
def test_killed_it_leaves_nothing_and_goes_on_where_it_was(home, run, by_one):
    output = home.folder / "killed"
    process = home.start("predict", run, "--data", "new", "--output", str(output))
    deadline = time.monotonic() + 300
    while not list(output.glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stdout.read()
    process.kill()
    process.communicate()
    while _living(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _living(home) == []
    there = {one.name for one in output.glob("part-*")}
    assert 0 < len(there) < 80 and not (output / "_SUCCESS").exists()
    told = json.loads(predicted(home, run, str(output), "--json"))
    assert told["parts_kept"] == len(there)
    assert files(output) | {"_predictions.json": b""} == files(by_one) | {"_predictions.json": b""}
    older = home.call("predict", run, "--data", "new", "--output", str(output), "--step", "20")
    assert older.returncode == 2
    assert "step was 40, and now it is 20" in older.stderr and "Traceback" not in older.stderr


def _living(home) -> list[str]:
    """Processes of this home's pool, and Ray's that belong to it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                is_pool = "orchestrator.inference.pool" in command or f"/tw-{os.getuid()}/predict-" in command
                if is_pool and str(home.folder).encode() in (entry / "environ").read_bytes():
                    found.append(f"{entry.name} {command[:150]}")
    return found


@pytest.mark.slow
def test_a_launch_of_its_own_writes_the_same_files_and_goes_on_after_its_driver_was_killed(
    home, run, by_one, patients, monkeypatch
):
    """As on a cluster, whose part this machine's own backend plays: the driver is killed, and the one after it with its head, which
    it was told; what is written until then is kept.
    """
    place = ClusterProfile(name="local", kind="local", storage=str(home.folder))
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(home.folder))
    asked = ask.predict(sdk.attach(run, place), str(home.folder / "new"), cluster=place)
    storage = home.folder / "runs" / asked.id
    output = storage / "predictions"
    deadline = time.monotonic() + 300
    while not list(output.glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process = DriverProcess(store_at(str(storage)), "launches/1")
    process.kill()
    first = {one.name for one in output.glob("part-*")}
    (storage / SUBMITTED).write_text(str(time.time()))
    RunRecord(str(storage)).tell_that_head_leaves(1, name_of_pod(storage / "plan.json"))
    plan = Plan.model_validate_json((storage / "plan.json").read_text())
    process.start(**plan_to_process(plan, 1, DRIVER))
    said = "; the head will be taken away, and the next one goes on with those that are missing"
    while said not in process.log.read_text() and process.pid is not None:
        time.sleep(0.02)
    assert process.pid is not None, process.log.read_text()[-3000:]
    process.kill()
    assert first < {one.name for one in output.glob("part-*")}, "those that are handed out are written"
    while not asked.status().state.is_final and time.monotonic() < deadline:
        time.sleep(0.1)
    there = {one.name for one in output.glob("part-*")}
    assert 0 < len(there) < 80 and not (output / "_SUCCESS").exists()
    asked.resume()
    ended = asked.wait(300)
    found = ask.answer_of(asked)
    assert (found.parts_kept, found.parts, ended.message) == (len(there), 80, found.sentence)
    assert files(output) | {"_predictions.json": b""} == files(by_one) | {"_predictions.json": b""}
    with pytest.raises(SpecError, match="has ended with its answer: "):
        asked.resume()


def test_a_row_that_cant_be_read_is_one_sentence(home, run, patients):
    broken = patients.slice(0, 4).to_pandas()
    column = next(one for one in broken.columns if one not in ("patient", "label"))
    broken.loc[3, column] = None
    broken.to_parquet(home.folder / "broken.parquet")
    answer = home.call("predict", run, "--data", "broken.parquet", "--output", "broken")
    assert answer.returncode == 3
    assert "broken.parquet, row 3" in answer.stderr and "Traceback" not in answer.stderr


def test_evaluating_a_run_again_gives_what_it_logged_and_mlflow_has_it(home, run, patients):
    from mlflow import MlflowClient

    logged = {
        name.removeprefix("val/"): value
        for name, value in home.status(run)["metrics"].items()
        if name.startswith("val/")
    }
    answer = home.call("evaluate", run, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["metrics"] == logged
    told = home.call("evaluate", run, "--data", "new/*.parquet").stdout
    assert f"{ROWS} samples of new by the model of step 40" in told
    assert "MLflow has them as evaluate/new/..., at step 40" in told
    again = home.call("evaluate", run, "--data", "new/*.parquet").stdout
    assert "those that it had before stay" in again
    client = MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")
    (tracked,) = client.search_runs(["1"], f"tags.`trainwright.run_id` = '{run}'")
    assert tracked.data.metrics["evaluate/eval/accuracy"] == logged["accuracy"]
    (point,) = client.get_metric_history(tracked.info.run_id, "evaluate/new/loss")
    assert point.step == 40


def test_what_has_no_checkpoint_is_said(home, run, patients):
    none = home.call("predict", run, "--data", "new", "--output", "none", "--step", "7")
    assert none.returncode == 6 and "there is no checkpoint of step 7" in none.stderr
    both = home.call("evaluate", run, "--best", "--step", "7")
    assert both.returncode == 2 and "give --best or --step, not both" in both.stderr
