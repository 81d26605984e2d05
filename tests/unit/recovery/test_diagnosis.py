"""What ranks do now, as their run's driver tells whoever asks in its record."""

import threading

import pytest

from orchestrator.cli.diagnose import alike, lines_of
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import Beat, Sight
from orchestrator.recovery.diagnosis import Answers, Diagnosis, ask, diagnosis_of, nobody_trains
from orchestrator.recovery.hangs import Hang, Place

STACK = ("train loop.py:10", "wait torch/distributed.py:5")


def sight(rank, waits, stack=STACK):
    return Sight(rank, "h", 100 + rank, Beat(), waits, {}, {}, (), "thread main\n", stack)


def hang(*waits, silent=(), longest_step=0.1):
    beats = {rank: Beat(5, "the forward pass", False, longest_step, attempt=2) for rank in range(len(waits))}
    sights = {rank: sight(rank, does) for rank, does in enumerate(waits) if rank not in silent}
    places = {rank: Place("h", 100 + rank) for rank in range(len(waits))}
    return Hang(seconds=14.0, beats=beats, places=places, sights=sights)


def test_the_one_that_others_wait_for_is_named_when_it_stands_still():
    found = diagnosis_of(hang(True, False, True), {0: 14.0, 1: 14.0, 2: 14.0})
    assert found.waited_for == (1,) and found.attempt == 2
    assert found.sentence == "worker 1 (process 101 on h) has not moved for 14 s, in the forward pass"
    assert [(one.rank, one.waits, one.answers) for one in found.ranks] == [
        (0, True, True),
        (1, False, True),
        (2, True, True),
    ]


@pytest.mark.parametrize(
    ("still", "longest_step", "named"), [(1.5, 0.1, ()), (3.0, 0.1, (1,)), (3.0, 2.0, ())]
)
def test_nobody_is_named_while_all_go_on(still, longest_step, named):
    found = diagnosis_of(hang(True, False, longest_step=longest_step), {0: 0.1, 1: still})
    assert found.waited_for == named
    assert named or found.sentence.startswith(
        f"all workers go on; worker 1 has done the same for longest: {still}"
    )


def test_one_that_does_not_answer_is_named_at_once():
    found = diagnosis_of(hang(True, True, silent=(1,)), {0: 0.1, 1: 0.1})
    assert found.waited_for == (1,) and not found.ranks[1].answers and not found.ranks[1].stack


def test_who_asks_is_answered_and_nobody_else_twice(tmp_path):
    record, looked = RunRecord(str(tmp_path)), []
    record.store.write("control/diagnose", b"of another launch")
    answers = Answers(record)

    def look():
        looked.append(1)
        return nobody_trains().model_copy(update={"attempt": len(looked)})

    answers.answer(look)
    assert not looked, "what was asked before is not answered"
    for number in (1, 2):
        got = []
        asker = threading.Thread(target=lambda got=got: got.append(ask(record, 20.0)))
        asker.start()
        while asker.is_alive():
            answers.answer(look)
        assert got[0].attempt == number == len(looked)
    assert ask(record, 0.05) is None, "nobody answers any more"


def test_stacks_stand_side_by_side_and_alike_ones_once():
    found = diagnosis_of(hang(True, False, True), {0: 14.0, 1: 14.0, 2: 14.0})
    other = ("train loop.py:10", "sleep model.py:3", "nap time.py:1")
    ranks = [one.model_copy(update={"stack": other} if one.rank == 1 else {}) for one in found.ranks]
    shown = found.model_copy(update={"ranks": tuple(ranks)})
    assert alike(ranks) == [("ranks 0, 2", STACK), ("rank 1", other)]
    wide, narrow = "\n".join(lines_of(shown, 120)), "\n".join(lines_of(shown, 40))
    assert "rank 1  h  process 101    14.0 s of the forward pass: works  <- waited for" in wide
    assert any("wait torch" in line and "sleep model.py:3" in line for line in wide.splitlines())
    assert not any("wait torch" in line and "sleep model.py:3" in line for line in narrow.splitlines())
    assert "sleep model.py:3" in narrow


def test_a_rank_that_says_nothing_is_shown_too():
    shown = list(lines_of(Diagnosis(taken_at=0.0, sentence="no"), 80))
    assert shown == ["no"]
    silent = diagnosis_of(hang(True, silent=(0,)), {0: 3.0})
    assert "does not answer  <- waited for" in "\n".join(lines_of(silent, 80))
