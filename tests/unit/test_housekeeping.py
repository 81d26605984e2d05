"""What takes room is counted, pruned and deleted, on disks and in buckets; what lives stays. MLflow is real."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from cluster_cases import plan, ray_profile
from fake_ray_jobs import FakeRayJobs
from object_buckets import bucket_at

import orchestrator
from orchestrator import checkpoint, cli, sdk
from orchestrator.checkpoint.format import folder_name
from orchestrator.checkpoint.retention import all_but_the_best
from orchestrator.errors import NotFoundError, SpecError
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.storage import store_at

DAY = 86400.0


def leave_run(root, run_id, *, days_ago, state=RunState.SUCCEEDED, tracking_uri=""):
    """A run as it lies in a storage."""
    made = plan(run_id, "/", f"{root}/runs/{run_id}").model_copy(update={"tracking_uri": tracking_uri})
    record = RunRecord(made.storage)
    record.store.write("plan.json", made.model_dump_json().encode())
    now = time.time()
    status = RunStatus(
        run_id=run_id, state=RunState.RUNNING, submitted_at=now - days_ago * DAY - 60, total_steps=100
    )
    record.set_state(status)
    if state.is_final:
        record.end(status.ended(state, EndReason.COMPLETED, "done", ended_at=now - days_ago * DAY))
    record.store.write("checkpoints/attempts/1", b"")
    record.store.write("checkpoints/step-00000010.attempt-1/rank-0.bin", bytes(1000))
    return made


def leave_cached(root, name, *, days_ago=0.0):
    store_at(root).write(f"cache/{name}", bytes(500))
    if not root.startswith("s3:"):
        moment = time.time() - days_ago * DAY
        os.utime(Path(root, "cache", name), (moment, moment))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    return str(tmp_path)


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["trainwright", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code or 0, said.out + said.err


def test_usage_tells_the_bytes_of_runs_cache_and_mlflow(home, monkeypatch, capsys):
    leave_run(home, "old-run", days_ago=40)
    leave_run(home, "new-run", days_ago=1)
    store_at(home).write("runs/old-run/checkpoints/step-00000020.attempt-1/rank-0.bin", bytes(1000))
    leave_cached(home, "line-index/a.json")
    store_at(home).write("mlflow.db", bytes(300))
    store_at(home).write("mlartifacts/1/x", bytes(40))
    found = orchestrator.usage()
    runs = [(run.run_id, run.checkpoint_bytes, run.state) for run in found.runs]
    assert runs == [("old-run", 2000, "succeeded"), ("new-run", 1000, "succeeded")]
    assert (found.cache_bytes, found.tracking_bytes) == (500, 340)
    code, said = command(monkeypatch, capsys, "usage")
    assert code == 0 and "old-run  succeeded  2KB" in said and "cache 500B, MLflow 340B" in said
    told = json.loads(command(monkeypatch, capsys, "usage", "--json")[1])
    assert told["total_bytes"] == found.total_bytes


def test_delete_shows_first_and_refuses_all_where_one_lives(home, monkeypatch, capsys):
    leave_run(home, "one", days_ago=1)
    leave_run(home, "two", days_ago=1)
    code, said = command(monkeypatch, capsys, "delete", "one")
    assert code == 0 and "nothing was deleted; --yes does it" in said and Path(home, "runs/one").is_dir()
    code, said = command(monkeypatch, capsys, "delete", "one", "nobody", "--yes")
    assert (code, Path(home, "runs/one").is_dir()) == (6, True) and "no run 'nobody'" in said
    code, said = command(monkeypatch, capsys, "delete", "one", "../two", "--yes")
    assert (code, Path(home, "runs/two").is_dir()) == (6, True)
    assert command(monkeypatch, capsys, "delete", "one", "two", "--yes")[0] == 0
    assert store_at(home).list("runs") == []
    assert command(monkeypatch, capsys, "delete", "one", "--yes")[0] == 6


def test_prune_takes_what_is_old_enough(home, monkeypatch, capsys):
    leave_run(home, "old-run", days_ago=40)
    leave_run(home, "new-run", days_ago=29)
    leave_cached(home, "line-index/old.json", days_ago=40)
    leave_cached(home, "line-index/new.json")
    code, said = command(monkeypatch, capsys, "prune", "--older-than", "30d")
    assert code == 0 and "run         old-run" in said and "cache       1 entries" in said
    assert "nothing was; --yes does it" in said and Path(home, "runs/old-run").is_dir()
    assert command(monkeypatch, capsys, "prune", "--older-than", "30d", "--yes")[0] == 0
    assert store_at(home).list("runs") == ["new-run"]
    assert store_at(home).list("cache/line-index") == ["new.json"]
    code, said = command(monkeypatch, capsys, "prune", "--older-than", "soon")
    assert code == 2 and "--older-than: 'soon' is not a duration" in said


def test_prune_keeps_the_best_checkpoint(home, monkeypatch):
    leave_run(home, "old-run", days_ago=40)
    root = Path(home, "runs/old-run/checkpoints")
    store = store_at(str(root))
    store.remove("step-00000010.attempt-1")
    saved = [
        checkpoint.Checkpoint(step, 1, str(root / folder_name(step, 1)), _meta(step)) for step in (30, 20, 10)
    ]
    for one in saved:
        store.write(f"{folder_name(one.step, 1)}/COMMITTED", b"x")
    monkeypatch.setattr("orchestrator.checkpoint.retention.committed", lambda _: saved)
    assert all_but_the_best(store) == [folder_name(30, 1), folder_name(10, 1)]
    found = sdk.prune(older_than_seconds=30 * DAY, keep_best=True)
    assert len(found.checkpoints) == 2 and found.runs == ()
    assert store.list("") == ["attempts", folder_name(20, 1)]
    assert sdk.attach("old-run").status().state is RunState.SUCCEEDED


def _meta(step):
    return {"best_by": {"metric": "loss", "mode": "min"}, "metrics": {"loss": abs(step - 20) / 10}}


def test_a_run_that_lives_and_what_it_may_read_stay(home, monkeypatch):
    leave_run(home, "living", days_ago=40, state=RunState.RUNNING)
    monkeypatch.setattr("orchestrator.clusters.local.processes.DriverProcess.pid", 1)
    leave_cached(home, "line-index/old.json", days_ago=40)
    found = sdk.prune(older_than_seconds=30 * DAY)
    assert (found.runs, found.cached, found.bytes) == ((), (), 0)
    with pytest.raises(SpecError, match="has not ended: it is running"):
        sdk.delete(["living"])
    assert Path(home, "runs/living/plan.json").is_file()


def test_runs_in_a_bucket_that_ray_has_forgotten_are_deleted_too(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    server = FakeRayJobs()
    try:
        with bucket_at("s3", "bucket") as bucket:
            root = f"{bucket}/forgotten"
            profile = ray_profile(server.url, root)
            leave_run(root, "old-run", days_ago=40)
            leave_run(root, "new-run", days_ago=1)
            leave_run(root, "perhaps", days_ago=1, state=RunState.RUNNING)
            leave_cached(root, "line-index/a.json")
            assert {run.run_id for run in sdk.usage(profile).runs} == {"new-run", "old-run", "perhaps"}
            assert sdk.prune(profile, older_than_seconds=30 * DAY).runs == ("old-run",)
            sdk.delete(["new-run"], profile)
            with pytest.raises(SpecError, match="its own record says that it is running"):
                sdk.delete(["perhaps"], profile)
            with pytest.raises(NotFoundError):
                sdk.delete(["new-run"], profile)
            assert store_at(root).list("runs") == ["perhaps"]
    finally:
        server.close()


def test_a_bucket_s_deletion_that_was_killed_is_ended_by_another(monkeypatch, home):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    server = FakeRayJobs()
    try:
        with bucket_at("s3", "bucket") as bucket:
            root = f"{bucket}/killed"
            profile = ray_profile(server.url, root)
            for survived in range(4):
                made = leave_run(root, "a-run", days_ago=1)
                _killed_after(survived, RunRecord(made.storage), monkeypatch)
                assert store_at(root).list("runs") == ["a-run"]
                sdk.delete(["a-run"], profile)
                assert store_at(root).list("runs") == []
    finally:
        server.close()


def _killed_after(removals, record, monkeypatch):
    with monkeypatch.context() as patch:
        remove, left = record.store.remove, iter(range(removals))

        def remove_some(path):
            next(left)
            remove(path)

        patch.setattr(record.store, "remove", remove_some)
        with pytest.raises(StopIteration):
            record.delete()


def test_what_mlflow_has_of_a_run_goes_with_its_files(home, monkeypatch):
    from mlflow import MlflowClient

    from orchestrator.telemetry.closing import describe_run, sync
    from orchestrator.telemetry.mlflow_run import MlflowRun
    from orchestrator.telemetry.spool import Spool

    uri = f"sqlite:///{home}/mlflow.db"
    for run_id in ("one", "two"):
        made = leave_run(home, run_id, days_ago=40, tracking_uri=uri)
        describe_run(made, data={}, started_at=time.time())
        assert sync(made.storage, None) == 0
    client = MlflowClient(uri)
    mine = MlflowRun.open(made, Spool(made.storage)).id
    [experiment] = client.search_experiments(filter_string="name = 'trainwright'")
    assert Path(home, "mlartifacts", mine, "artifacts").is_dir()
    sdk.delete(["two"])
    assert [run.info.run_name for run in client.search_runs([experiment.experiment_id], run_view_type=3)] == [
        "one"
    ]
    assert not Path(home, "mlartifacts", mine, "artifacts").exists()
    sdk.delete(["one"], keep_tracked=True)
    assert len(client.search_runs([experiment.experiment_id])) == 1 and store_at(home).list("runs") == []
