import dataclasses

import pytest

from orchestrator.recovery.beats import Beat, Sight
from orchestrator.recovery.hangs import PATIENCE, Hang, HangCheck, Place, incident_text

STEP = Beat(count=9, doing="an update", may_take_long=False, longest_step=2.0, attempt=3)


def moved(beat, by=1):
    return dataclasses.replace(beat, count=beat.count + by)


def sight(rank, *, beat=STEP, waits=True, begun=None, pending=None, collectives=()):
    return Sight(
        rank,
        "host",
        100 + rank,
        beat,
        waits,
        begun or {},
        pending or {},
        tuple(collectives),
        f"stack of {rank}",
    )


def hang(*sights, ranks=2, beats=None, heard=()):
    places = {rank: Place("host", 100 + rank) for rank in range(ranks)}
    beats = beats or dict.fromkeys(range(ranks), STEP)
    seen = {each.rank: each for each in sights}
    return Hang(seconds=61.6, beats=beats, places=places, sights=seen, heard=frozenset(heard))


def test_ranks_that_move_do_not_hang():
    check, beat = HangCheck(60), STEP
    for now in range(0, 1000, 50):
        beat = moved(beat)
        assert check.longest_stillness({0: beat, 1: beat}, now) == 0


def test_one_that_stands_still_beyond_the_longest_step_hangs():
    check = HangCheck(60)
    assert check.longest_stillness({0: STEP, 1: STEP}, 100.0) == 0
    assert check.longest_stillness({0: moved(STEP), 1: STEP}, 161.9) == 0
    assert check.longest_stillness({0: moved(STEP, 2), 1: STEP}, 162.1) == pytest.approx(62.1)


def test_one_that_does_not_answer_stands_still():
    check = HangCheck(60)
    check.longest_stillness({0: STEP, 1: STEP}, 0.0)
    assert check.longest_stillness({0: moved(STEP), 1: None}, 63.0) == 63.0
    assert check.beats == {0: moved(STEP), 1: STEP}
    never = HangCheck(60)
    assert never.longest_stillness({0: None}, 0.0) == never.longest_stillness({0: None}, 60.0 * PATIENCE) == 0
    assert never.longest_stillness({0: None}, 60.0 * PATIENCE + 1) > 0


def test_what_may_take_long_on_any_rank_may():
    check, save = HangCheck(60), dataclasses.replace(STEP, may_take_long=True)
    check.longest_stillness({0: STEP, 1: save}, 0.0)
    assert check.longest_stillness({0: STEP, 1: save}, 60.0 * PATIENCE) == 0
    assert check.longest_stillness({0: STEP, 1: save}, 60.0 * PATIENCE + 1) > 0


def test_one_that_takes_steps_and_does_not_answer_is_not_waited_for_so_long():
    check, save = HangCheck(60), dataclasses.replace(STEP, may_take_long=True)
    check.longest_stillness({0: save, 1: save}, 0.0)
    assert check.longest_stillness({0: save, 1: None}, 10.0) == 0
    assert check.longest_stillness({0: save, 1: None}, 71.9) == 0
    assert check.longest_stillness({0: save, 1: None}, 72.1) == pytest.approx(62.1)
    assert check.longest_stillness({0: save, 1: save}, 73.0) == 0  # it answers again


def test_a_host_waits_for_all_steps_that_its_device_has_still_to_take():
    check = HangCheck(60)
    ahead = dataclasses.replace(STEP, steps_ahead=50)
    check.longest_stillness({0: ahead}, 0.0)
    assert check.longest_stillness({0: ahead}, 159.0) == 0
    assert check.longest_stillness({0: ahead}, 161.0) == 161.0


def test_who_does_not_answer_is_waited_for():
    assert hang(sight(0)).blamed == [1]
    assert hang(sight(0)).sentence == "worker 1 (process 101 on host) has not answered for 62 s, in an update"


def test_on_a_busy_host_only_who_gives_no_beat_either_is_waited_for():
    """Worker 1 is stopped; 0 and 2 were too slow to say what they do."""
    assert hang(ranks=3, heard=(0, 2)).blamed == [1]
    assert hang(ranks=1).blamed == [0]  # the only one there is


def test_where_nobody_answers_nobody_is_named():
    nobody = hang(ranks=3)
    assert nobody.blamed == nobody.silent == []
    assert nobody.sentence == (
        "all workers have stood still for 62 s, in an update; 3 of 3 did not say in time what they do, so it is not known"
        " which one is waited for"
    )
    assert "<- waited for" not in incident_text(nobody)


def test_who_was_too_slow_to_answer_is_not_taken_for_one_that_waits():
    """Worker 2 may be the one that hangs: of the others that wait nobody is named, and of one that does not, it is known."""
    assert hang(sight(0, beat=moved(STEP)), sight(1), ranks=3, heard=(0, 1, 2)).blamed == []
    assert hang(sight(0, waits=False), ranks=3, heard=(0, 1, 2)).blamed == []
    assert hang(sight(0), sight(1, waits=False), ranks=3, heard=(0, 1, 2)).blamed == [1]


def test_a_check_knows_who_gave_its_beat_lately():
    check = HangCheck(60)
    check.longest_stillness({0: STEP, 1: STEP}, 0.0)
    check.longest_stillness({0: None, 1: STEP}, 31.0)
    check.longest_stillness({0: None, 1: None}, 40.0)
    assert check.heard_within(30.0) == {1}
    assert check.heard_within(41.0) == {0, 1}


def test_who_is_not_in_the_collective_of_another_is_waited_for():
    inside = sight(0, begun={"0": 7}, pending={"0": 7})
    assert hang(inside, sight(1, begun={"0": 6})).blamed == [1]
    assert hang(sight(0, begun={"0": 6}, waits=False), sight(1, begun={"0": 7}, pending={"0": 7})).blamed == [
        0
    ]
    elsewhere = sight(1, begun={"1": 3}, pending={"1": 3})  # another group's numbers say nothing of this one
    assert hang(inside, elsewhere).blamed == []


def test_who_left_a_collective_out_and_went_on_is_waited_for():
    """It is in the next one, which torch counts by the same number."""
    inside = {"begun": {"0": 7}, "pending": {"0": 7}}
    assert hang(sight(0, **inside), sight(1, beat=moved(STEP), **inside)).blamed == [1]
    assert hang(sight(0, **inside), sight(1, **inside)).blamed == []


def test_without_a_record_of_collectives_who_waits_for_nobody_is_waited_for():
    assert hang(sight(0), sight(1, waits=False)).blamed == [1]
    assert hang(sight(0, waits=False), sight(1, waits=False)).blamed == []
    nobody = hang(sight(0), sight(1))
    assert nobody.blamed == []
    assert nobody.sentence.startswith("all workers have stood still for 62 s, in an update")


def test_the_only_worker_is_the_one_that_hangs():
    assert hang(sight(0, waits=False), ranks=1).blamed == [0]
    assert hang(sight(0, waits=False), sight(1, waits=False)).blamed == []


def test_the_file_begins_with_whom_the_others_wait_for():
    seen = hang(
        sight(0, begun={"0": 7}, pending={"0": 7}, collectives=["gloo:all_reduce of [[4]]"]),
        sight(1, begun={"0": 6}),
    )
    lines = incident_text(seen).splitlines()
    assert lines == [
        "attempt 3: worker 1 (process 101 on host) has not moved for 62 s, in an update",
        "",
        "rank 0  host  process 100  an update; in gloo:all_reduce of [[4]]",
        "rank 1  host  process 101  an update  <- waited for",
        "",
        "==== rank 1 ====",
        "stack of 1",
        "",
        "==== rank 0 ====",
        "stack of 0",
    ]
    assert "it did not answer" in incident_text(hang(sight(0)))
