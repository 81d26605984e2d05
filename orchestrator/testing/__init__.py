"""What stands around the training loop, to be tested with: your own objective or strategy in the loop that ships.

::

    plan = small_plan(training={"max_steps": 3, "global_batch_size": 8})
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
    around = RecordingSurroundings()
    loop.train(plan, engine, objective, steps_of(batches, plan), around, start_step=0)
    assert around.metric("train/loss")[3] < around.metric("train/loss")[1]
"""

from __future__ import annotations

from orchestrator.testing.engine import RecordingEngine
from orchestrator.testing.plans import small_plan
from orchestrator.testing.steps import steps_of
from orchestrator.testing.surroundings import Logged, RecordingSurroundings

__all__ = ["Logged", "RecordingEngine", "RecordingSurroundings", "small_plan", "steps_of"]
