"""At whatever request or write a command dies, the next one mends what it left, or says it; and no driver begins twice."""

import pytest
from cluster_places import PLACES, RUN
from killed_commands import is_killed, points

from orchestrator.errors import NotFoundError, SpecError
from orchestrator.runs import EndReason, RunState
from orchestrator.storage.local import SystemCalls


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name == "distant-ray" else ())
        for name in PLACES
        if name != "local"  # whose system calls have a test of their own
    ]
)
def after_each_kill(request, tmp_path, monkeypatch):
    """Places in which a command was killed, at each point of its way; then one in which it was not."""
    monkeypatch.setattr(SystemCalls, "fsync", lambda self, descriptor: None)

    def places(command, before=lambda place: None):
        for point in points():
            folder = tmp_path / str(point)
            folder.mkdir()
            place = PLACES[request.param](folder, monkeypatch)
            try:
                before(place)
                killed = is_killed(lambda place=place: command(place), point)
                yield place
            finally:
                place.close()
            if not killed:
                assert point > 4, point
                return

    return places


def submit(place):
    cluster = place.cluster()
    return cluster.submit(cluster.render(place.plan()))


def assert_one_driver_begins(place, launch):
    """The newest launch's driver is the only one, and is heard, asked and ended."""
    cluster = place.cluster()
    assert (cluster.status(RUN).launch, cluster.status(RUN).state) == (launch, RunState.PENDING)
    assert [status.run_id for status in cluster.list()] == [RUN]
    place.starts(launch)
    assert cluster.status(RUN).state is RunState.STARTING
    place.ends(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped", launch)
    assert cluster.status(RUN).state is RunState.STOPPED
    assert cluster.resume(RUN).launch == launch + 1


def test_a_killed_submit_is_mended_by_another(after_each_kill):
    for place in after_each_kill(submit):
        submit(place)
        assert place.launches() == 1
        assert_one_driver_begins(place, 1)


def test_a_killed_submit_is_told_by_status(after_each_kill):
    for place in after_each_kill(submit):
        cluster = place.cluster()
        try:
            status = cluster.status(RUN)
        except NotFoundError:
            assert cluster.list() == [] and place.launches() == 0
            continue
        assert status.state is RunState.PENDING and place.launches() == 1
        if not place.may_begin():
            assert "killed" in status.message and "submit" in status.message
            submit(place)
        assert place.may_begin()


def test_a_killed_submit_can_be_stopped(after_each_kill):
    for place in after_each_kill(submit):
        try:
            place.cluster().stop(RUN, now=True)
        except NotFoundError:
            assert place.launches() == 0
            continue
        place.ends_by_stop()
        assert place.cluster().status(RUN).state is RunState.STOPPED
        if not place.may_begin():
            with pytest.raises(SpecError, match="submit the job again"):
                place.cluster().resume(RUN)
            submit(place)
        assert place.cluster().resume(RUN).launch == 2


def failed(place):
    submit(place)
    place.starts()
    place.fails()


def test_a_killed_resume_is_told_and_mended(after_each_kill):
    for place in after_each_kill(lambda place: place.cluster().resume(RUN), before=failed):
        cluster = place.cluster()
        status = cluster.status(RUN)
        if status.state is RunState.FAILED:
            assert (status.launch, place.launches()) == (1, 1)
            status = cluster.resume(RUN)
        assert (status.launch, status.state, place.launches()) == (2, RunState.PENDING, 2)
        if not place.may_begin(2):
            assert "killed" in cluster.status(RUN).message
            assert cluster.resume(RUN).launch == 2
        assert place.launches() == 2 and place.may_begin(2)
        assert_one_driver_begins(place, 2)


def running(place):
    submit(place)
    place.runs()


@pytest.mark.parametrize("now", [False, True])
def test_a_killed_stop_is_mended_by_another(after_each_kill, now):
    for place in after_each_kill(lambda place: place.cluster().stop(RUN, now=now), before=running):
        status = place.cluster().stop(RUN, now=now)
        assert status.state in (RunState.STOPPING, RunState.STOPPED) and place.launches() == 1
        if now:
            place.ends_by_stop()
            assert place.cluster().status(RUN).state is RunState.STOPPED
        else:
            assert place.was_asked_to_stop() and place.is_alive()
