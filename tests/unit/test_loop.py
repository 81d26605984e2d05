"""What the loop promises those around it, with an engine that only notes what it is asked."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from orchestrator import loop
from orchestrator.models.base import Sums
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext

STEPS = 4


class Notes:
    """Engine, objective and surroundings in one: the order of calls is what counts."""

    phases = ("first", "second")
    units_per_sample = 1

    def __init__(self):
        self.said, self.modules, self.device = [], {}, torch.device("cpu")

    def __getattr__(self, name):
        return lambda *_, **__: self.said.append(name)

    def autocast(self):
        return nullcontext()

    def micro_step(self, phase, *, last):
        return nullcontext()

    def loss(self, phase, modules, batch):
        return Sums(torch.tensor(1.0), torch.tensor(1), {})

    def step(self, phase, factor, clip):
        self.said.append("update")
        return 1.0

    def stop_requested(self, step):
        return False

    def replicas_differ(self):
        return None


@pytest.fixture
def plan():
    job = ResolvedJob.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "in_features": 3, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": STEPS, "global_batch_size": 4},
            "checkpoint": {"every_steps": 1},
        }
    )
    context = RunContext(
        version="1", run_id="job-abcdefgh", base_dir="/w", storage="/s", cache="/c", tracking_uri=""
    )
    return make_plan(job, DataFacts(train_samples=100), Counts(1, 1, 1, ()), context)


def test_no_update_begins_before_a_save_has_let_it(plan):
    notes = Notes()
    batch = SimpleNamespace(micros=[{}], samples=4, padded=False, epoch=0.0, tokens=0)
    outcome = loop.train(plan, notes, notes, iter([batch] * STEPS), notes, start_step=0)
    assert outcome.step == STEPS
    order = [name for name in notes.said if name in ("before_update", "update", "save")]
    assert order == [*["before_update", "update"] * 2, "save"] * STEPS
