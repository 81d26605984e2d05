"""How many workers a group gets, on a clock of its own."""

import pytest

from orchestrator.recovery.group_size import GroupSizes


def sizes(window=60.0):
    return GroupSizes([2, 4, 8], window)


@pytest.mark.parametrize(("room", "workers"), [(0, 2), (1, 2), (2, 2), (3, 2), (7, 4), (8, 8), (99, 8)])
def test_a_group_starts_with_the_largest_size_that_there_is_room_for(room, workers):
    """The smallest waits for its nodes where there are too few."""
    assert sizes().at_start(room) == workers


def test_a_group_grows_when_there_was_room_for_long_enough():
    decide = sizes()
    rooms = [(0, 4), (50, 8), (100, 8), (109, 8), (110, 8)]
    assert [decide.while_running(4, room, 0.0, now) for now, room in rooms] == [None, None, None, None, 8]


def test_room_that_goes_again_is_waited_for_anew():
    decide = sizes()
    rooms = [(100, 8), (150, 7), (155, 8), (200, 8), (214, 8), (215, 8)]
    assert [decide.while_running(4, room, 0.0, now) for now, room in rooms] == [None] * 5 + [8]


def test_a_group_that_has_just_started_keeps_its_size_for_as_long():
    decide = sizes()
    assert [decide.while_running(4, 8, 100.0, now) for now in (100, 159, 160)] == [None, None, 8]


def test_room_seen_before_a_restart_counts_for_nothing_after_it():
    decide = sizes()
    decide.while_running(2, 4, 0.0, 50.0)
    decide.at_start(2)
    assert [decide.while_running(2, 4, 0.0, now) for now in (100, 159, 160)] == [None, None, 4]


def test_it_grows_to_the_size_that_there_is_room_for_at_last():
    decide = sizes()
    assert [decide.while_running(2, room, 0.0, now) for now, room in ((0, 4), (59, 8), (60, 8))] == [
        None,
        None,
        8,
    ]


def test_after_workers_found_no_room_fewer_are_next_and_growing_waits_twice_as_long():
    decide = sizes()
    assert decide.at_start(8) == 8
    decide.did_not_start(8)
    assert decide.at_start(8) == 4
    decide.did_not_start(4)
    assert decide.at_start(8) == 2
    decide.started()
    assert decide.at_start(8) == 8
    assert [decide.while_running(4, 8, 0.0, now) for now in (0, 239, 240)] == [None, None, 8]
