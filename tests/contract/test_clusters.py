"""What every cluster does alike: the protocol's promises, on this machine with real processes in the driver's place, and on
real HTTP servers that stand for Ray and Kubernetes."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster_places import PLACES, RUN
from typer.testing import CliRunner

from orchestrator import events, sdk
from orchestrator.cli.app import app
from orchestrator.errors import InfrastructureError, NotFoundError, ResourcesError, SpecError
from orchestrator.runs import EndReason, RunState


@pytest.fixture(params=PLACES)
def place(request, tmp_path, monkeypatch):
    made = PLACES[request.param](tmp_path, monkeypatch)
    yield made
    made.close()


def submit(place, **options):
    cluster = place.cluster()
    return cluster, cluster.submit(cluster.render(place.plan(**options)))


def text_of(lines):
    return [line for line in lines if events.parse(line) is None]


# -- sending ---------------------------------------------------------------------------------------------------


def test_render_asks_nobody_and_is_always_the_same(place):
    first, second = (place.cluster().render(place.plan()) for _ in range(2))
    assert first == second
    assert first.plan == place.plan()
    assert place.has_been_asked_nothing()


def test_a_plan_that_never_fits_is_refused_before_anything_is_sent(place):
    scaling = {"workers": 64, "gpus_per_worker": 1}
    too_many = place.plan(scaling=scaling, training={"max_steps": 1, "global_batch_size": 64})
    with pytest.raises(ResourcesError, match="64 GPU"):
        place.cluster().render(too_many)
    assert place.has_been_asked_nothing()


def test_submitting_again_returns_the_first_s_status(place):
    _, first = submit(place)
    _, second = submit(place)
    assert first == second
    assert (first.run_id, first.state, first.launch) == (RUN, RunState.PENDING, 1)
    assert (first.cluster, first.name, first.total_steps) == (place.profile.name, "digits", 100)
    assert first.urls["checkpoints"] == f"{place.storage}/runs/{RUN}/checkpoints"
    assert place.launches() == 1


def test_many_submits_at_once_start_one_driver(place):
    with ThreadPoolExecutor(8) as people:
        statuses = list(people.map(lambda _: submit(place)[1], range(8)))
    assert {status.launch for status in statuses} == {1}
    assert place.launches() == 1


# -- deleting --------------------------------------------------------------------------------------------------


def test_of_a_deleted_run_nothing_is_left_and_its_id_is_free(place):
    cluster, _ = submit(place)
    place.runs()
    with pytest.raises(SpecError, match="has not ended"):
        cluster.delete(RUN)
    place.fails()
    cluster.resume(RUN)
    place.runs(2)
    place.fails(2)
    cluster.delete(RUN)
    assert cluster.list() == [] and cluster.storage().list("runs") == [] and place.launches() == 0
    for verb in (cluster.status, cluster.delete):
        with pytest.raises(NotFoundError):
            verb(RUN)


def test_nothing_outside_of_the_runs_is_ever_deleted(place):
    for name in ("..", "../x", "", ".", "/etc", "a/b", "Bad"):
        with pytest.raises((NotFoundError, InfrastructureError)):
            place.cluster().delete(name)


# -- how it stands ---------------------------------------------------------------------------------------------


def test_nobody_s_run_is_not_found(place):
    cluster = place.cluster()
    for verb in (cluster.status, cluster.stop, cluster.resume, lambda run: list(cluster.logs(run))):
        with pytest.raises(NotFoundError, match="nobody"):
            verb("nobody")
    assert cluster.list() == []


def test_a_list_has_each_run_once_as_its_status_says(place):
    cluster, _ = submit(place, run_id="other-abcdefgh")
    submit(place)
    place.runs()
    place.fails()
    cluster.resume(RUN)
    listed = {status.run_id: status for status in cluster.list()}
    assert {run: status.launch for run, status in listed.items()} == {RUN: 2, "other-abcdefgh": 1}
    assert listed["other-abcdefgh"].state is RunState.PENDING
    for run, status in listed.items():
        assert status == cluster.status(run)


def test_a_driver_that_lives_starts_and_then_runs(place):
    cluster, _ = submit(place)
    place.starts()
    assert cluster.status(RUN).state is RunState.STARTING
    place.runs(step=20, metrics={"train/loss": 0.5})
    status = cluster.status(RUN)
    assert (status.state, status.attempt, status.step) == (RunState.RUNNING, 1, 20)
    assert status.metrics == {"train/loss": 0.5}


@pytest.mark.parametrize("reason", EndReason)
def test_an_end_is_told_as_the_driver_told_it(place, reason):
    cluster, _ = submit(place)
    place.runs(metrics={"train/loss": 0.5})
    state = {EndReason.COMPLETED: RunState.SUCCEEDED, EndReason.STOPPED_BY_USER: RunState.STOPPED}.get(
        reason, RunState.FAILED
    )
    place.ends(state, reason, "in the driver's words")
    status = cluster.status(RUN)
    assert (status.state, status.reason, status.message) == (state, reason, "in the driver's words")
    assert (status.step, status.metrics) == (10, {"train/loss": 0.5})
    assert status.ended_at is not None
    assert cluster.status(RUN) == status


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 137])
def test_a_driver_that_exits_without_a_word_is_told_by_what_the_place_knows(place, code):
    cluster, _ = submit(place)
    place.runs()
    place.exits(code)
    status = cluster.status(RUN)
    reason = place.reason_of_exit(code)
    stopped = reason is EndReason.STOPPED_BY_USER
    assert (status.state, status.reason) == (RunState.STOPPED if stopped else RunState.FAILED, reason)
    assert status.message
    [listed] = cluster.list()
    assert (listed.state, listed.reason, listed.message) == (status.state, status.reason, status.message)


# -- logs ------------------------------------------------------------------------------------------------------


def test_logs_are_the_driver_s_lines_and_follow_to_its_end(place):
    cluster, _ = submit(place)
    place.runs()
    place.prints("one", "two")
    assert text_of(cluster.logs(RUN)) == ["one", "two"]
    place.fails()
    assert text_of(cluster.logs(RUN, follow=True)) == ["one", "two"]
    [*_, last] = cluster.logs(RUN)
    assert events.parse(last)["event"] == "end"


def test_logs_of_a_rank_are_its_own_lines(place):
    cluster, _ = submit(place)
    place.runs()
    place.prints("the driver's")
    place.rank_prints(1, "one", "two")
    assert list(cluster.logs(RUN, rank=1)) == ["one", "two"]
    place.fails()
    assert list(cluster.logs(RUN, rank=1, follow=True)) == ["one", "two"]
    for follow in (False, True):
        with pytest.raises(NotFoundError, match=f"run {RUN} has no output of rank 7"):
            list(cluster.logs(RUN, rank=7, follow=follow))


# -- stopping --------------------------------------------------------------------------------------------------


def test_a_graceful_stop_does_not_end_it_at_once_and_may_be_asked_for_again(place):
    cluster, _ = submit(place)
    place.runs()
    assert not place.was_asked_to_stop()
    for _ in range(2):
        assert cluster.stop(RUN).state is RunState.STOPPING
    assert place.was_asked_to_stop()
    assert place.is_alive()
    place.ends(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped after step 10")
    assert cluster.status(RUN).message == "stopped after step 10"


@pytest.mark.parametrize("is_running", [False, True])
def test_a_stop_now_ends_it_and_may_be_asked_for_again(place, is_running):
    cluster, _ = submit(place)
    if is_running:
        place.runs()
    for _ in range(2):
        assert cluster.stop(RUN, now=True).state in (RunState.STOPPING, RunState.STOPPED)
    place.ends_by_stop()
    status = cluster.status(RUN)
    assert (status.state, status.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER)


def test_a_stop_before_its_driver_lives_ends_it(place):
    cluster, _ = submit(place)
    cluster.stop(RUN)
    place.ends_by_stop()
    status = cluster.status(RUN)
    assert (status.state, status.reason) == (RunState.STOPPED, EndReason.STOPPED_BY_USER)


def test_an_end_is_final(place):
    cluster, _ = submit(place)
    place.runs()
    place.ends(RunState.SUCCEEDED, EndReason.COMPLETED, "took all its steps")
    ended = cluster.status(RUN)
    for now in (False, True):
        assert cluster.stop(RUN, now=now) == ended
    assert not place.was_asked_to_stop()
    assert cluster.status(RUN) == ended


# -- resuming --------------------------------------------------------------------------------------------------


def test_what_has_not_ended_is_not_resumed(place):
    cluster, _ = submit(place)
    for state in ("pending", "running"):
        with pytest.raises(
            SpecError, match=f"run {RUN} has not ended: it is {state}; stop it first, or wait"
        ):
            cluster.resume(RUN)
        if state == "pending":
            place.runs()
    assert place.launches() == 1


def test_what_has_nothing_left_to_do_is_not_resumed(place):
    cluster, _ = submit(place)
    place.runs()
    place.ends(RunState.SUCCEEDED, EndReason.COMPLETED, "took all its steps")
    with pytest.raises(SpecError, match=f"run {RUN} has taken all its 100 steps; nothing is left to resume"):
        cluster.resume(RUN)
    assert place.launches() == 1


def test_each_resume_is_a_launch_of_its_own(place):
    cluster, _ = submit(place)
    place.runs(step=30)
    place.fails()
    for launch in (2, 3):
        resumed = cluster.resume(RUN)
        assert (resumed.launch, resumed.state) == (launch, RunState.PENDING)
        assert place.launches() == launch
        assert cluster.status(RUN).launch == launch
        place.runs(launch)
        assert cluster.status(RUN).state is RunState.RUNNING
        place.fails(launch)
        assert cluster.status(RUN).state is RunState.FAILED


def test_a_launch_that_ended_without_a_driver_is_told_to_the_next(place):
    """Of an image that is not there, of a queue that never has room: nothing of it is in the run's record."""
    cluster, _ = submit(place)
    ended = []
    for launch in (1, 2):
        place.waits(launch)
        cluster.stop(RUN)
        place.ends_by_stop(launch)
        ended.append(cluster.status(RUN))
        resumed = cluster.resume(RUN)
        assert resumed.launch == launch + 1
    told = [(one.launch, one.state, one.submitted_at, one.ended_at) for one in resumed.launches_before()]
    assert told == [(one.launch, "stopped", one.submitted_at, one.ended_at) for one in ended]
    assert all(one.ended_at for one in ended)
    ledger = sdk.Run(RUN, cluster).ledger()
    assert set(ledger.seconds) - {"between launches"} == place.waits_without_driver
    assert ledger.wall == pytest.approx(time.time() - ended[0].submitted_at, rel=0.005, abs=2)
    place.runs(3)
    place.fails(3)
    assert cluster.resume(RUN).launches_before() == []


def test_why_tells_what_a_launch_without_a_driver_waits_for(place, tmp_path):
    """Nothing of it is in the storage, its plan neither, and this machine may not reach that."""
    file = tmp_path / "profile.yaml"
    file.write_text(place.profile.model_dump_json(exclude_unset=True))
    cluster, _ = submit(place)
    place.waits()
    told = CliRunner().invoke(app, ["why", RUN, "--cluster", str(file), "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert set(found["seconds"]) == place.waits_without_driver
    assert found["wall"] == pytest.approx(time.time() - cluster.status(RUN).submitted_at, rel=0.005, abs=5)


def test_a_run_goes_on_with_another_plan_and_keeps_it(place):
    """What the second launch was given is what the third starts from."""
    cluster, _ = submit(place)
    place.runs()
    place.fails()
    workers = []

    def one_more(plan):
        workers.append(plan.job.scaling.workers)
        scaling = plan.job.scaling.model_copy(update={"workers": workers[-1] + 1})
        job = plan.job.model_copy(update={"scaling": scaling})
        return plan.model_copy(update={"job": job, "world_size": scaling.workers})

    for launch in (2, 3):
        assert cluster.resume(RUN, one_more).launch == launch
        place.runs(launch)
        place.fails(launch)
    assert workers[1] == workers[0] + 1


def test_ping_is_one_line(place):
    assert "\n" not in place.cluster().ping()


def test_a_run_called_as_another_s_second_launch_is_not_taken_for_it(place):
    """Ids of launches are made from ids of runs: ``digits-abcdefgh-2`` may be either."""
    cluster, _ = submit(place)
    _, other = submit(place, run_id=f"{RUN}-2")
    place.runs()
    place.fails()
    assert (other.run_id, other.launch) == (f"{RUN}-2", 1)
    assert (cluster.status(RUN).launch, cluster.status(RUN).state) == (1, RunState.FAILED)
    assert cluster.status(f"{RUN}-2").state is RunState.PENDING
    try:
        assert cluster.resume(RUN).launch == 2
    except SpecError as refused:
        assert f"{RUN}-2" in str(refused)
    assert (cluster.status(f"{RUN}-2").launch, cluster.status(f"{RUN}-2").run_id) == (1, f"{RUN}-2")
