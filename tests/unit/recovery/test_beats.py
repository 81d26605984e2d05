import threading

import pytest

from orchestrator.recovery import beats
from orchestrator.recovery.beats import Heart, beating, sight, waits_for_others


@pytest.fixture
def heart(monkeypatch):
    now = [100.0]
    made = Heart()
    made.now = now
    monkeypatch.setattr(beats, "heart", made)
    monkeypatch.setattr(beats.time, "monotonic", lambda: now[0])
    return made


def test_each_place_is_a_beat_and_the_first_step_may_take_long(heart):
    heart.begins(2)
    seen = []
    for step, _ in enumerate(beating(iter("ab"), 6), start=7):
        seen.append(heart.beat)
        heart.now[0] += 3.0
        heart.has_taken(step)
        seen.append(heart.beat)
        heart.catches_up()
    assert [(beat.count, beat.doing, beat.may_take_long) for beat in seen] == [
        (2, "the forward and backward pass of step 7", True),
        (3, "what is due after step 7", True),
        (5, "the forward and backward pass of step 8", False),
        (6, "what is due after step 8", False),
    ]
    assert {beat.attempt for beat in seen} == {2}
    assert (heart.beat.count, heart.beat.doing) == (7, "reading the batch of step 9")
    assert heart.beat.longest_step == 3.0


def test_steps_that_a_device_has_still_to_take_are_counted_with_their_seconds(heart):
    heart.begins(1)
    for step in range(1, 5):
        heart.passes_to_step(step)
        heart.now[0] += 0.5
        heart.has_taken(step)
    assert (heart.beat.steps_ahead, heart.beat.longest_step, heart.beat.may_take_long) == (4, 0.0, True)
    heart.now[0] += 6.0
    heart.catches_up()
    assert (heart.beat.steps_ahead, heart.beat.longest_step, heart.beat.longest_wait) == (0, 2.0, 2.0)
    heart.passes_to_step(5)
    heart.has_taken(5)
    heart.passes_to_step(6)
    heart.has_taken(6)
    assert heart.beat.longest_wait == 4.0


def test_a_sight_has_the_training_thread_first():
    is_ready, ends = threading.Event(), threading.Event()

    def trains():
        beats.heart.begins(4)
        is_ready.set()
        ends.wait()

    thread = threading.Thread(target=trains, name="training")
    thread.start()
    try:
        is_ready.wait()
        seen = sight(3)
    finally:
        ends.set()
        thread.join()
    assert (seen.rank, seen.beat.attempt, seen.waits) == (3, 4, False)
    assert seen.stacks.startswith("thread training\n") and "in trains" in seen.stacks
    assert "thread MainThread" in seen.stacks


@pytest.mark.parametrize(
    ("stack", "waits"),
    [
        ([("/x/mine.py", "forward")], False),
        ([("/l/torch/distributed/c10d_logger.py", "wrapper"), ("/l/torch/distributed/distributed_c10d.py", "all_reduce")], True),
        ([("/l/torch/autograd/graph.py", "_engine_run_backward")], True),
        ([("/l/torch/autograd/graph.py", "_engine_run_backward"), ("/x/mine.py", "backward")], False),
        ([("/l/torch/nn/parallel/distributed.py", "forward"), ("/x/mine.py", "forward")], False),
        ([("/l/torch/distributed/a.py", "f"), *[("/x/mine.py", "g")] * 3], False),
        ([], False),
    ],
)  # fmt: skip
def test_a_thread_in_a_collective_waits_for_others(stack, waits):
    assert waits_for_others(stack) is waits
