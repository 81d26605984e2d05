"""What a driver tells of the time before its first word."""

import os

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


@pytest.mark.parametrize(
    ("posted", "pod", "parts"),
    [
        (50.0, None, [["environment", 50.0]]),
        (0.0, None, None),  # a driver that Ray's Jobs API did not start
        (
            50.0,
            waited.Pod("head", (("queue", 10.0), ("image", 20.0), ("environment", 0.0))),
            [["queue", 10.0], ["image", 20.0], ["waiting for nodes", 40.0], ["environment", 50.0]],
        ),
    ],
)
def test_what_is_known_is_one_event(posted, pod, parts, monkeypatch, capsys):
    monkeypatch.setattr(waited, "_job_posted", lambda: posted)
    monkeypatch.setattr(waited, "_head_began", lambda: 40.0)
    waited.tell(pod)
    told = [events.parse(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["parts"] for event in told] == ([] if parts is None else [parts])
    assert all(event["event"] == "waited" for event in told)
