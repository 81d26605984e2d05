"""What a driver tells of the time before its first word."""

import json
import os
from types import SimpleNamespace

import psutil
import pytest

from orchestrator import events, waited


@pytest.fixture
def mounted(tmp_path):
    """A ConfigMap's folder as a kubelet writes it, half a minute after the submission; ``change`` is what it does where a key is added."""
    folder = tmp_path / "run"
    folder.mkdir()

    def write(number, files):
        kept = folder / f"..{number}"
        kept.mkdir()
        for name, content in files.items():
            (kept / name).write_text(content)
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        (folder / "..new").symlink_to(kept.name)
        (folder / "..new").replace(folder / "..data")

    files = {"plan.json": "{}", "submitted-at": "1000.5"}
    write(1, files)
    os.utime(folder / "plan.json", (1030.0, 1030.0), follow_symlinks=False)
    return folder, lambda: write(2, {**files, "stop-1": ""})


def test_a_driver_in_a_pod_knows_when_its_node_began_and_when_its_container_did(mounted, monkeypatch):
    folder, change = mounted
    name, parts = waited.of_pod(folder / "plan.json")
    began = psutil.Process(1).create_time()
    assert parts == (("queue", 1000.5), ("image", 1030.0), ("environment", pytest.approx(began, abs=1.0)))
    change()  # as a stop does
    assert waited.of_pod(folder / "plan.json") == (name, parts)

    def hidden(number):
        raise psutil.AccessDenied(number)

    monkeypatch.setattr(psutil, "Process", hidden)
    assert waited.of_pod(folder / "plan.json") == (name, (*parts[:2], ("environment", 0.0)))


@pytest.mark.parametrize("content", [None, "", "None"])
def test_a_driver_elsewhere_is_in_no_pod(tmp_path, content):
    if content is not None:
        (tmp_path / "submitted-at").write_text(content)
    (tmp_path / "plan.json").write_text("{}")
    assert waited.of_pod(tmp_path / "plan.json") is None


class Head:
    """What Ray's head knows of one job, and of its two nodes."""

    def __init__(self, address):
        assert address == "10.0.0.1:6379"

    def internal_kv_get(self, key, *, namespace, timeout):
        assert namespace == b"job"
        return {b"_ray_internal_job_info_run-1": b'{"start_time": 50000}'}.get(key)

    def get_all_node_info(self, *, timeout):
        head = SimpleNamespace(is_head_node=True, start_time_ms=40_000)
        return {"h": head, "w": SimpleNamespace(is_head_node=False, start_time_ms=45_000)}


def lost(address):
    raise TimeoutError("no head at 10.0.0.1:6379")


@pytest.mark.parametrize(
    ("job", "head", "in_pod", "parts"),
    [
        ("run-1", Head, False, [["environment", 50.0]]),
        (None, Head, False, None),  # a driver that Ray's Jobs API did not start
        (
            "run-1",
            Head,
            True,
            [["queue", 10.0], ["image", 20.0], ["waiting for nodes", 40.0], ["environment", 50.0]],
        ),
        ("run-1", lost, True, [["queue", 10.0], ["image", 20.0]]),
        ("run-2", Head, True, [["queue", 10.0], ["image", 20.0]]),  # a head that has been replaced
        ("run-1", lost, False, None),
    ],
)
def test_what_is_known_is_one_event(job, head, in_pod, parts, monkeypatch, capsys, caplog):
    metadata = {"job_submission_id": job} if job else {}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(waited, "_head", head)
    pod = waited.Pod("head", (("queue", 10.0), ("image", 20.0), ("environment", 0.0)))
    waited.tell(pod if in_pod else None)
    assert ("since when Ray had this job is not known" in caplog.text) == (head is lost or job == "run-2")
    told = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["parts"] for event in told] == ([] if parts is None else [parts])
    assert all(event["event"] == "waited" for event in told)
