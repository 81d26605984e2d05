"""What a spike of the loss is, and what a checkpoint must know to find the same ones."""

import math

import pytest
import torch

from orchestrator.errors import UserCodeError
from orchestrator.models.base import Sums
from orchestrator.spec.recovery import SpikeSpec
from orchestrator.telemetry.spikes import SpikeWatch


def watch(state=None, **spec):
    made = SpikeSpec(**{"factor": 2, "window": 3, "action": "rewind", **spec})
    return SpikeWatch(made, ("model",), torch.device("cpu"), state)


def looked(one, losses, first=1):
    """The steps that are spikes, when losses of two micro-batches each are seen."""
    for step, loss in enumerate(losses, first):
        for share in (1, 3):
            one.add("model", Sums(torch.tensor(loss * share), torch.tensor(share), {}))
        one.look(step, "model")
    return [spike.step for spike in one.read()]


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        ([1.0, 1.0, 1.0, 2.0], []),
        ([1.0, 1.0, 1.0, 2.001], [4]),
        ([1.0, 1.0, 9.0], []),  # the window is not full
        ([1.0, 1.0, 1.0, 9.0, 9.0, 1.0], [4, 5]),  # a spike is not compared with
        ([1.0, 1.0, 1.0, math.nan, math.inf, 1.0], [4, 5]),
        ([4.0, 1.0, 1.0, 1.0, 2.5], [5]),  # the first has left the window
        ([-1.0, -1.0, -1.0, -0.5, 0.5], [5]),  # by as much as the mean is large
    ],
)
def test_a_spike_is_far_above_the_steps_before_it(losses, steps):
    assert looked(watch(), losses) == steps


def test_what_is_read_is_read_once_and_says_how_large_it_is():
    one = watch()
    for step in range(1, 5):
        one.add("model", Sums(torch.tensor(6.0 if step == 4 else 1.0), torch.tensor(2), {}))
        one.look(step, "model")
    (spike,) = one.read()
    assert spike.told() == "step 4: the loss of model is 3, after a mean of 0.5"
    assert one.read() == []


def test_one_that_goes_on_from_a_checkpoint_finds_the_same():
    losses = [0.1 + 0.07 * (step % 5) for step in range(23)] + [0.7]
    whole, first = watch(window=7), watch(window=7)
    assert looked(first, losses[:11]) == []
    second = watch(first.state(), window=7)
    assert looked(whole, losses) == looked(second, losses[11:], 12) == [24]
    assert second.state() == whole.state()


def test_an_action_is_taken():
    assert looked(watch(action="skip_batch"), [1.0] * 3 + [5.0] * 2) == [4, 5]
    said = r"step 4: .* of 3 steps, more than .*factor \(2\) allows: .*--set recovery\.leave_out=\[4\]"
    with pytest.raises(UserCodeError, match=said):
        looked(watch(action="fail"), [1.0] * 3 + [5.0] * 2)
    few = watch(action="skip_batch", most=2)
    assert looked(few, [1.0] * 3 + [5.0] * 2) == [4, 5]
    going_on = watch(few.state(), action="skip_batch", most=2)
    with pytest.raises(UserCodeError, match=r"more than recovery\.on_spike\.most \(2\) batches"):
        looked(going_on, [5.0], 6)


def test_nothing_is_looked_at_where_nothing_is_asked():
    one = SpikeWatch(None)
    one.add("model", Sums(torch.tensor(1.0), torch.tensor(1), {}))
    assert (one.look(1, "model"), one.read(), one.state(), one.rewinds) == (None, [], {}, False)
