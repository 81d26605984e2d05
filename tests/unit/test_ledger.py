import pytest

from orchestrator.ledger import BEFORE, Account, Ledger, ledger_of
from orchestrator.runs import EndReason, RunState, RunStatus


def told(*lines):
    """Events of (time, kind, fields)."""
    return [{"event": kind, "time": time, **fields} for time, kind, fields in lines]


def log(time, step, *, wait=0.0, forward=0.0, save=0.0, evaluate=0.0, other=0.0, **more):
    """A log of training, with milliseconds a step."""
    parts = {
        "data_wait": wait,
        "forward_backward": forward,
        "optimizer": 0.0,
        "checkpoint": save,
        "evaluate": evaluate,
    }
    values = {f"system/{part}_ms": spent for part, spent in parts.items()}
    return time, "metrics", {"step": step, "values": {**values, "system/other_ms": other, **more}}


BEGIN = (
    (110.0, "state", {"launch": 1, "state": "starting"}),
    (111.0, "stage", {"doing": "starting Ray"}),
    (115.0, "stage", {"doing": "starting the workers"}),
    (118.0, "stage", {"doing": "building the model"}),
    (119.0, "attempt", {"attempt": 1, "start_step": 0}),
)
STARTED = {
    "queue": 10.0,
    "start: starting the driver": 1.0,
    "start: starting Ray": 4.0,
    "start: starting the workers": 3.0,
}


def test_each_second_from_the_submission_to_the_end_is_one_part_s():
    found = ledger_of(
        told(
            *BEGIN,
            log(121.0, 1, forward=1000.0),
            log(131.0, 11, wait=100.0, forward=600.0, save=200.0, other=100.0),
            (131.5, "metrics", {"step": 11, "values": {"val/loss": 1.0}}),
            (134.0, "end", {}),
        ),
        {1: 100.0},
    )
    assert found.seconds == pytest.approx(
        {
            **STARTED,
            "start: building the model": 2.0,
            "step": 7.0,
            "data wait": 1.0,
            "checkpoint": 2.0,
            "other": 1.0,
            "end": 3.0,
        }
    )
    assert found.wall == pytest.approx(34.0)
    assert (found.steps, found.faults) == (11, 0)
    assert found.effective == pytest.approx(7 / 34)


def test_what_was_taken_again_and_what_stood_still_did_not_count():
    found = ledger_of(
        told(
            *BEGIN,
            log(120.0, 1, forward=1000.0),
            log(130.0, 11, forward=1000.0),
            (134.0, "incident", {}),
            (136.0, "stage", {"doing": "building the model"}),
            (138.0, "attempt", {"attempt": 2, "start_step": 6}),
            log(140.0, 7, forward=1000.0),
            log(150.0, 17, forward=1000.0),
            (151.0, "end", {}),
        ),
        {1: 100.0},
    )
    # steps 7 to 11 again, of which the second log has four among its ten
    assert found.seconds == pytest.approx(
        {
            **STARTED,
            "start: building the model": 1.0 + 3.0,
            "step": 1.0 + 10.0 + 6.0,
            "replay": 1.0 + 4.0,
            "down": 4.0 + 2.0,
            "end": 1.0,
        }
    )
    assert found.wall == pytest.approx(51.0)
    assert (found.steps, found.faults) == (17, 1)


def test_steps_that_were_saved_on_notice_count_though_they_were_not_logged():
    found = ledger_of(
        told(
            *BEGIN,
            log(120.0, 1, forward=1000.0),
            log(130.0, 11, forward=1000.0),
            (134.0, "incident", {}),
            (135.0, "stage", {"doing": "building the model"}),
            (136.0, "attempt", {"attempt": 2, "start_step": 14}),
            log(137.0, 15, forward=1000.0),
            (137.0, "end", {}),
        ),
        {},
    )
    assert found.seconds["step"] == pytest.approx(1.0 + 10.0 + 3.0 + 1.0)
    assert found.seconds["down"] == pytest.approx(1.0 + 1.0)
    assert "replay" not in found.seconds and found.steps == 15
    assert found.wall == pytest.approx(27.0)  # nobody knows when it was submitted


def test_an_attempt_that_follows_without_a_fault_takes_steps_again():
    found = ledger_of(
        told(
            *BEGIN,
            log(120.0, 1, forward=1000.0),
            log(130.0, 11, forward=1000.0),
            (132.0, "stage", {"doing": "building the model"}),
            (133.0, "attempt", {"attempt": 2, "start_step": 6}),
            log(139.0, 12, forward=1000.0),
            (139.0, "end", {}),
        ),
        {1: 100.0},
    )
    assert (found.seconds["down"], found.seconds["replay"]) == (pytest.approx(2.0), pytest.approx(5.0))
    assert found.seconds["step"] == pytest.approx(12.0) and "end" not in found.seconds
    assert found.wall == pytest.approx(39.0)


def test_what_missing_workers_could_have_done_is_said_apart():
    """Steps of 2 of 8 workers, then of 6; what was taken again and what stood still is no capacity that was lost."""
    found = ledger_of(
        told(
            *BEGIN[:3],
            (116.0, "group", {"workers": 2, "most": 8}),
            *BEGIN[3:],
            log(130.0, 10, forward=800.0, wait=200.0),
            (131.0, "resize", {"message": "there is room for 6 workers in place of 2"}),
            (131.0, "group", {"workers": 6, "most": 8}),
            (132.0, "attempt", {"attempt": 2, "start_step": 5}),
            log(142.0, 15, forward=1000.0),
            (142.0, "end", {}),
        ),
        {1: 100.0},
    )
    assert found.shrunken == pytest.approx(0.75 * 8.0 + 0.25 * 5.0)
    assert found.faults == 0
    assert (found.seconds["step"], found.seconds["replay"], found.seconds["down"]) == pytest.approx(
        (13.0, 5.0, 2.0)
    )
    assert found.wall == pytest.approx(42.0)


def test_launches_add_up_and_the_time_between_them_is_none_of_theirs():
    found = ledger_of(
        told(
            *BEGIN,
            log(120.0, 1, forward=1000.0),
            (121.0, "end", {}),
            (1000.0, "text", {}),
            (1010.0, "state", {"launch": 2, "state": "starting"}),
            (1011.0, "waiting", {"message": "nodes"}),
            (1021.0, "stage", {"doing": "starting the workers"}),
            (1022.0, "attempt", {"attempt": 2, "start_step": 1}),
        ),
        {1: 100.0, 2: 1005.0},
    ).with_launches([launch(2, 1005.0).at(RunState.STARTING)], 1025.0)
    assert found.wall == pytest.approx(1025.0 - 100.0)
    assert found.seconds["between launches"] == pytest.approx(1005.0 - 121.0)
    assert found.of_launches == pytest.approx(21.0 + 20.0)
    assert found.effective == pytest.approx(1.0 / 41.0)
    assert found.seconds["queue"] == pytest.approx(10.0 + 5.0)
    assert found.seconds["waiting for nodes"] == pytest.approx(10.0)
    assert found.seconds["start: starting the workers"] == pytest.approx(3.0 + 4.0)


def test_clocks_that_differ_charge_no_second_twice():
    found = ledger_of(
        told(*BEGIN, log(120.0, 1, forward=1000.0), (119.5, "incident", {}), (122.0, "end", {})), {1: 100.0}
    )
    assert found.wall == pytest.approx(22.0) and min(found.seconds.values()) >= 0


def waited(*parts, submitted=110.0, twice=False):
    """A launch whose first word came at 110 and whose driver told at 112 what it had waited for before."""
    tells = (112.0, "waited", {"parts": [list(part) for part in parts]})
    again = [(116.0, "state", {"launch": 1}), (117.0, "waited", tells[2])] if twice else []
    known = told(*BEGIN[:2], tells, *again, *BEGIN[2:], log(120.0, 1, forward=1000.0), (122.0, "end", {}))
    return ledger_of(known, {1: submitted})


SUBMITTED = ("queue", 100.0)


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        ([SUBMITTED], {"queue": 10.0}),
        (
            [SUBMITTED, ("image", 103.0), ("environment", 107.5)],
            {"queue": 3.0, "image": 4.5, "environment": 2.5},
        ),
        (  # KubeRay posts the job once all pods are there
            [
                SUBMITTED,
                ("image", 101.0),
                ("environment", 102.0),
                ("waiting for nodes", 104.0),
                ("environment", 109.0),
            ],
            {"queue": 1.0, "image": 1.0, "environment": 3.0, "waiting for nodes": 5.0},
        ),
        ([("environment", 100.0)], {"environment": 10.0}),  # a Ray cluster has no queue
        ([SUBMITTED, ("image", 90.0), ("environment", 95.0)], {"environment": 10.0}),  # its clock is behind
        ([SUBMITTED, ("image", 130.0), ("environment", 140.0)], {"queue": 10.0}),  # of a head in its place
        ([SUBMITTED, ("image", 108.0), ("environment", 104.0)], {"queue": 8.0, "environment": 2.0}),
    ],
)
@pytest.mark.parametrize("submitted", [100.0, 110.0])
@pytest.mark.parametrize("twice", [False, True])
def test_what_a_launch_waited_for_before_its_driver_is_told_apart(told, parts, submitted, twice):
    """By its driver, whether it knew when it was submitted or not, and once where another one takes its place."""
    found = waited(*told, submitted=submitted, twice=twice)
    before = {part: found.seconds[part] for part in (*BEFORE, "waiting for nodes") if part in found.seconds}
    assert before == pytest.approx(parts)
    assert found.wall == pytest.approx(22.0)
    assert found.charged_from == 100.0


@pytest.mark.parametrize(("at", "wall"), [(100.0, 22.0), (111.0, 12.0), (130.0, 12.0)])
def test_a_driver_that_learns_of_its_submission_charges_the_wait(at, wall):
    """Ray tells it to a driver that has joined; what was charged already is not charged again."""
    found = waited(("queue", at))
    assert found.wall == pytest.approx(wall)
    assert found.seconds.get("queue", 0.0) == pytest.approx(wall - 12.0)


@pytest.mark.parametrize("submitted", [{}, {2: 115.0}])
def test_a_launch_is_charged_for_no_time_of_the_one_before(submitted):
    """A clock that is behind says of the second launch that it was submitted while the first ran."""
    first = told(*BEGIN, log(120.0, 1, forward=1000.0), (122.0, "end", {}))
    parts = [["queue", 115.0], ["image", 125.0], ["environment", 127.0]]
    second = told((130.0, "state", {"launch": 2}), (131.0, "waited", {"parts": parts}), (140.0, "end", {}))
    found = ledger_of([*first, *second], {1: 110.0, **submitted})
    assert found.wall == pytest.approx(12.0 + 18.0)
    before = [found.seconds[part] for part in BEFORE]
    assert before == pytest.approx([3.0, 2.0, 3.0])


def test_each_launch_s_wait_is_told_apart_also_by_another_process():
    """Whoever keeps the ledger of a second launch goes on with that of the first."""
    parts = [["queue", 125.0], ["image", 126.0], ["environment", 128.0]]
    account = Account({2: 130.0}, waited(SUBMITTED, ("image", 103.0), ("environment", 107.5)))
    for event in told(
        (130.0, "state", {"launch": 2}), (131.0, "waited", {"parts": parts}), (140.0, "end", {})
    ):
        account.take(event)
    assert [account.ledger.seconds[part] for part in BEFORE] == pytest.approx([4.0, 6.5, 4.5])
    assert account.ledger.wall == pytest.approx(140.0 - 100.0)
    assert account.ledger.seconds["between launches"] == pytest.approx(125.0 - 122.0)


def launch(number, submitted_at, ended_at=None, waited=()):
    """As its cluster knows it: it waits, or was stopped."""
    status = RunStatus(
        run_id="r", launch=number, state=RunState.PENDING, submitted_at=submitted_at, waited=waited
    )
    ended = RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped"
    return status if ended_at is None else status.ended(*ended, ended_at=ended_at)


def test_a_launch_without_a_driver_waits_in_the_queue():
    assert Ledger().with_launches([launch(1, 100.0)], 130.0).seconds == {"queue": 30.0}
    ended = waited(SUBMITTED)
    overlaps = launch(2, 115.0, 130.0)  # while the first one ran, by a clock that is behind
    later = ended.with_launches([launch(1, 90.0, 99.0), overlaps])
    assert (later.seconds["queue"], later.wall) == pytest.approx((18.0, 30.0))
    last = later.with_launches([overlaps, launch(3, 150.0)], 151.0)
    assert (last.seconds["between launches"], last.launch, last.wall) == pytest.approx((20.0, 3, 51.0))


@pytest.mark.parametrize(
    ("by_cluster", "parts"),
    [
        ([("queue", 130.0)], {"queue": 20.0}),
        ([("environment", 130.0)], {"environment": 20.0}),  # on a Ray cluster
        ([("queue", 130.0), ("image", 133.0)], {"queue": 3.0, "image": 17.0}),
        (
            [("queue", 130.0), ("image", 133.0), ("environment", 140.0), ("waiting for nodes", 142.0)],
            {"queue": 3.0, "image": 7.0, "environment": 2.0, "waiting for nodes": 8.0},
        ),
        # the image came when the launch had ended
        ([("queue", 130.0), ("image", 133.0), ("environment", 160.0)], {"queue": 3.0, "image": 17.0}),
        # a clock is behind
        ([("queue", 90.0), ("image", 101.0), ("environment", 102.0)], {"environment": 20.0}),
    ],
)
@pytest.mark.parametrize("has_ended", [False, True])
def test_what_a_launch_without_a_driver_waited_for_is_told_apart(by_cluster, parts, has_ended):
    """As far as its cluster can tell; the launch before it ended at 122."""
    second = launch(2, 130.0, 150.0 if has_ended else None, by_cluster)
    before = waited(SUBMITTED)
    found = before.with_launches([second], None if has_ended else 150.0)
    new = {part: found.seconds.get(part, 0.0) - before.seconds.get(part, 0.0) for part in parts}
    assert new == pytest.approx(parts)
    assert found.seconds["between launches"] == pytest.approx(8.0)
    assert found.wall == pytest.approx(150.0 - 100.0)


@pytest.mark.parametrize(
    ("state", "part"), [("running", "steps that were not logged"), ("pending", "down"), ("stopped", "down")]
)
def test_what_comes_behind_a_driver_s_last_word_is_its_own_while_it_lives_and_down_once_it_does_not(
    state, part
):
    """As where a queue took the nodes back, whether the launch waits for them or was stopped meanwhile; then another follows."""
    trained = ledger_of(told(*BEGIN, log(120.0, 1, forward=1000.0)), {1: 100.0})
    first = launch(1, 100.0, 150.0 if state == "stopped" else None)
    first = first.at(RunState.RUNNING) if state == "running" else first
    found = trained.with_launches([first], 150.0)
    assert found.seconds == pytest.approx({**trained.seconds, part: 30.0})
    assert (bool(found.doing), found.faults) == (state != "stopped", int(state != "running"))
    if state == "stopped":
        both = trained.with_launches([first, launch(2, 160.0)], 170.0)
        assert both.seconds["queue"] == pytest.approx(found.seconds["queue"] + 10.0)
        assert both.seconds["between launches"] == pytest.approx(10.0)
        assert both.with_launches([first]).seconds == both.seconds, "an earlier one than is known is known"


@pytest.mark.parametrize("learns_again", [False, True])
def test_a_driver_behind_launches_that_had_none_leaves_no_second_out(learns_again):
    """Its own submission it learns once it has joined Ray; or the one after it, where it was lost meanwhile."""
    account = Account({3: 160.0})
    account.never_began(launch(1, 100.0, 120.0))
    account.never_began(launch(2, 130.0, 140.0))
    told_it = {"parts": [["queue", 150.0], ["image", 155.0]]}
    for event in told((160.0, "state", {"launch": 3})):
        account.take(event)
    if learns_again:
        account = Account({3: 160.0}, Ledger.model_validate_json(account.ledger.model_dump_json()))
    for event in told((165.0, "waited", told_it), (180.0, "end", {})):
        account.take(event)
    assert account.ledger.seconds == pytest.approx(
        {
            "queue": 20.0 + 10.0 + 5.0,
            "between launches": 10.0 + 10.0,
            "image": 5.0,
            "start: starting the driver": 20.0,
        }
    )
    assert account.ledger.wall == pytest.approx(180.0 - 100.0)


def test_what_others_wait_for_a_slow_rank_is_counted_by_rank():
    slow = {"system/slowest_rank": 1.0, "system/slowest_rank_behind_ms": 300.0}
    found = ledger_of(
        told(
            *BEGIN, log(120.0, 1, forward=1000.0), log(220.0, 101, forward=1000.0, **slow), (220.0, "end", {})
        ),
        {},
    )
    assert found.waited_for == pytest.approx({1: 30.0})


def test_it_goes_on_from_what_was_kept_as_if_nothing_had_been_between():
    events = told(
        *BEGIN,
        log(120.0, 1, forward=1000.0),
        log(130.0, 11, forward=800.0, other=200.0, **{"system/communication_ms": 100.0}),
        (134.0, "incident", {}),
        (136.0, "stage", {"doing": "reading the checkpoint"}),
        (138.0, "attempt", {"attempt": 2, "start_step": 6}),
        log(140.0, 7, forward=1000.0),
        log(150.0, 17, forward=1000.0),
        (151.0, "end", {}),
    )
    whole = ledger_of(events, {1: 100.0})
    assert whole.seconds["restore"] == pytest.approx(3.0) and whole.communication == pytest.approx(1.0)
    for cut in range(len(events)):
        kept = Ledger.model_validate_json(ledger_of(events[:cut], {1: 100.0}).model_dump_json())
        account = Account({1: 100.0}, kept, reached=kept.step)
        for event in events[cut:]:
            account.take(event)
        assert account.ledger.wall == pytest.approx(whole.wall), cut


def test_a_live_run_s_time_goes_on_and_an_ended_one_s_does_not():
    running = ledger_of(told(*BEGIN, log(120.0, 1, forward=1000.0)), {1: 100.0})
    trains = [launch(1, 100.0).at(RunState.RUNNING)]
    assert running.with_launches(trains, 125.0).wall == pytest.approx(25.0)
    assert running.wall == pytest.approx(20.0)
    ended = running.ended(123.0)
    assert ended.seconds["end"] == pytest.approx(3.0)
    assert ended.with_launches(trains, 200.0).wall == ended.wall == pytest.approx(23.0)


def test_a_driver_in_the_place_of_a_lost_one_charges_no_second_twice():
    found = ledger_of(
        told(*BEGIN, log(120.0, 1, forward=1000.0), (140.0, "state", {"launch": 1}), (145.0, "end", {})),
        {1: 100.0},
    )
    assert found.wall == pytest.approx(45.0) and found.faults == 1
    assert found.seconds["down"] == pytest.approx(20.0)


def test_room_held_for_spare_workers_is_said_beside_the_parts():
    found = ledger_of(
        told(
            *BEGIN,
            (118.0, "spares", {"held": 0, "of": 2}),
            (120.0, "spares", {"held": 2, "of": 2}),
            log(130.0, 10, forward=800.0, wait=200.0),
            (131.0, "incident", {}),
            (132.0, "spares", {"held": 0, "of": 2}),
            (134.0, "attempt", {"attempt": 2, "start_step": 10}),
            (136.0, "spares", {"held": 1, "of": 2}),
            log(142.0, 20, forward=600.0),
            (142.0, "end", {}),
        ),
        {1: 100.0},
    )
    # of two from 120 to the new start, and of one from 136 on
    assert found.spares == pytest.approx(2 * 12.0 + 6.0)
    assert found.wall == pytest.approx(42.0)
