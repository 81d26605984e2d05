from orchestrator import events
from orchestrator.telemetry.meter import PARTS, HostClock, Meter


def test_an_event_survives_being_carried_in_a_log(capsys):
    events.emit("metrics", step=3, values={"train/loss": 0.5})
    line = capsys.readouterr().out.strip()
    carried = f"\x1b[36m(RayTrainWorker pid=12, ip=10.0.0.1)\x1b[0m {line}"
    assert events.parse(carried)["values"] == {"train/loss": 0.5}
    assert events.parse(line[:-3]) is None
    assert events.parse("plain text") is None


def test_every_second_belongs_to_one_part(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 10.0, 10.5, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(HostClock())
    with meter.part("data_wait"):
        pass
    assert meter.read() == {**dict.fromkeys(PARTS, 0.0), "data_wait": 2.0, "other": 8.0}
    assert meter.read()["other"] == 0.5
