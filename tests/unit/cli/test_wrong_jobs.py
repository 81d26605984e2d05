"""What holds for the answers to mistakes, all of which stand in docs/mistakes.md."""

import pytest
import wrong_jobs

CASES = [wrong for wrongs in wrong_jobs.SECTIONS.values() for wrong in wrongs]


def case_id(wrong):
    return " ".join([wrong.command, *(new[:40] for _, new in wrong.edits)])


@pytest.mark.parametrize("wrong", CASES, ids=case_id)
def test_a_mistake_is_answered_in_sentences_and_an_exit_code(wrong):
    answer = wrong_jobs.answers()[wrong]
    assert answer.code in (2, 3, 4, 6)
    assert answer.message and "Traceback" not in answer.message and "Error:" not in answer.message
    assert all(": " in line and len(line) < 450 for line in answer.message.splitlines())
    assert "\n" in answer.message or answer.message.startswith("error: ")


def test_sizes_that_nothing_can_build_are_refused_in_a_second():
    found = wrong_jobs.answers()
    slow = [
        wrong
        for wrong in wrong_jobs.SECTIONS["Numbers"]
        if "size: debug" in wrong.edits[0] and found[wrong].cpu_seconds > 1.0
    ]
    assert slow == []


def test_there_are_as_many_as_the_page_promises():
    assert len(set(CASES)) == len(CASES) >= 60
