"""A step between logs asks its device for no value: on fake tensors, which have none, asking is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from family_cases import CASES, IDS, Case, random_batch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from orchestrator import loop, strategies
from orchestrator.models import build_modules, build_objective
from orchestrator.spec.recovery import SpikeSpec
from orchestrator.strategies import replicated
from orchestrator.strategies.simulated import simulated_rank
from orchestrator.telemetry import reading
from orchestrator.telemetry.spikes import SpikeWatch
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module", "ignore:LSTM with projections")

ALL_TENSORS = tuple(
    Case(case.name, case.config, case.objective, optional=("length", "segment", "weight")) for case in CASES
)
"""Each case with every tensor that a batch of it may have."""
SAMPLES = 4
STRATEGIES = {"ddp": (1, {"kind": "ddp"}), "fsdp": (2, {"kind": "fsdp"})}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values the loop reads; they are zeros."""
    counted: list[int] = []

    def read(values: Tensor) -> list[float]:
        counted.append(len(values))
        return [0.0] * len(values)

    monkeypatch.setattr(reading, "read", read)
    monkeypatch.setattr(replicated, "first_difference", lambda *_: None)  # after the last step
    return counted


def train_on_fakes(
    case: Case,
    strategy: str,
    training: dict[str, Any] | None = None,
    around: Callable[[FakeTensorMode], RecordingSurroundings] = lambda _: RecordingSurroundings(),
) -> int:
    """Steps that were taken."""
    world_size, section = STRATEGIES[strategy]
    plan = small_plan(
        world_size,
        strategy=section,
        training={"max_steps": 3, "global_batch_size": SAMPLES, "log_every": 100, **(training or {})},
        micro_batch_size=2 // world_size,
    )
    objective = build_objective(case.config, case.objective)
    batches = [random_batch(case, dict(objective.inputs()), SAMPLES, seed=step) for step in range(3)]
    with simulated_rank(world_size) as mode:
        modules = build_modules(case.config, case.objective)
        engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
        fakes = [{name: mode.from_tensor(tensor) for name, tensor in batch.items()} for batch in batches]
        outcome = loop.train(plan, engine, objective, _steps(fakes, plan), around(mode), 0)
        engine.close()
    return outcome.step


def _steps(batches: Any, plan: Any) -> Any:
    unweighted = [{name: t for name, t in batch.items() if name != "weight"} for batch in batches]
    return steps_of(unweighted, plan, rank=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", ALL_TENSORS, ids=IDS)
def test_a_step_of_every_family_reads_nothing(case: Case, strategy: str, reads: list[int]) -> None:
    assert train_on_fakes(case, strategy) == 3
    # the first step and the last are logged: where it went wrong, means, norms (and, on two ranks, waits for data)
    assert len(reads) <= 2 * 4


@pytest.mark.parametrize("kind", ["sgd", "lion"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nor_does_one_of_another_optimizer(kind: str, strategy: str, reads: list[int]) -> None:
    case = ALL_TENSORS[IDS.index("gpt")]
    assert train_on_fakes(case, strategy, {"optimizer": {"kind": kind, "learning_rate": 1e-3}}) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nor_does_one_that_moves_averages(strategy: str, reads: list[int]) -> None:
    case = ALL_TENSORS[IDS.index("cnn-batch")] if "cnn-batch" in IDS else ALL_TENSORS[IDS.index("gpt")]
    assert train_on_fakes(case, strategy, {"ema": {}}) == 3


@pytest.mark.parametrize("action", ["fail", "skip_batch", "rewind"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nor_does_one_that_looks_for_spikes(strategy: str, action: str, reads: list[int]) -> None:
    spec = SpikeSpec.model_validate({"factor": 2, "window": 2, "action": action})
    case = ALL_TENSORS[IDS.index("gpt")]
    assert train_on_fakes(case, strategy, around=lambda mode: _looking(spec, mode)) == 3


def _looking(spec: SpikeSpec, mode: FakeTensorMode) -> RecordingSurroundings:
    with mode:
        return RecordingSurroundings(spikes=SpikeWatch(spec, ("model",), torch.device("cpu")))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_that_looks_is_found_out(
    strategy: str, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = loop.FirstDivergence.note

    def looking(self: Any, step: int, phase: str, update: Any) -> None:
        if step == 2:
            update.norm.item()
        note(self, step, phase, update)

    monkeypatch.setattr(loop.FirstDivergence, "note", looking)
    with pytest.raises(DataDependentOutputException):
        train_on_fakes(ALL_TENSORS[IDS.index("gpt")], strategy)


def test_the_fakes_are_fakes() -> None:
    with simulated_rank(1) as mode:
        assert isinstance(mode, FakeTensorMode)
        with pytest.raises(DataDependentOutputException):
            torch.ones(()).item()
