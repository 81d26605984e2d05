"""The loop, every family and precision on a GPU that is not there: fake CUDA tensors have a device and no numbers.

What it shows: no tensor is on another device than those beside it, none goes from one to the other in a step, and
nothing waits for a number. What it can't: the backward, whose threads ask for a driver (parameters get gradients of
their shape instead), cuDNN, FSDP's streams, and anything of numbers, memory and time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from family_cases import CASES, Case, random_batch
from family_runs import Drawing
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orchestrator import loop, strategies
from orchestrator.models import attention, build_modules, build_objective
from orchestrator.models.attention import borders_of
from orchestrator.models.base import Batch
from orchestrator.models.deferred import build_deferred
from orchestrator.models.metrics import Evaluated
from orchestrator.models.objectives import language
from orchestrator.rank import Rank
from orchestrator.strategies import replicated
from orchestrator.strategies.copies import Copies
from orchestrator.strategies.simulated import simulated_rank
from orchestrator.strategies.torch_engine import TorchEngine
from orchestrator.telemetry import meter, reading
from orchestrator.telemetry.evaluation_sums import EvaluationSums
from orchestrator.testing import small_plan, steps_of

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="this torch is built without CUDA, so it has no fake CUDA tensors"
)

SAMPLES, STEPS = 4, 3
OPTIONAL = ("length", "segment", "weight")
PRECISIONS = ("fp32", "bf16", "fp16")


@pytest.fixture(scope="module", autouse=True)
def gru_without_numbers() -> Iterator[None]:
    """torch knows what the fused cell of a GPU's LSTM gives, and not what that of its GRU does."""
    library = torch.library.Library("aten", "IMPL", "Meta")
    library.impl("_thnn_fused_gru_cell", fused_gru_cell)
    yield
    library._destroy()


def fused_gru_cell(gates: Any, hidden_gates: Any, state_BW: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    samples, width = state_BW.shape
    return torch.empty_like(state_BW), state_BW.new_empty(samples, 5 * width)


class Crossings(TorchDispatchMode):
    """Notes calls whose tensors are on several devices: the host waits for the GPU there, or the GPU for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.allowed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {
            leaf.device.type
            # a single number of the host goes along with a GPU's call
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, Tensor) and leaf.dim() > 0
        }
        if len(devices) > 1 and not self.allowed:
            self.seen.add(str(func))
        return result


class Looking(Drawing):
    """Draws samples, which end on the host: there numbers may be asked for."""

    crossings: Crossings

    def show_samples(self, step: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeTensor, "numpy", lambda fake: np.zeros(fake.shape), raising=False)
            patch.setattr(FakeTensor, "__int__", lambda fake: 2)
            patch.setattr(self.crossings, "allowed", True)
            patch.setattr(language, "SAMPLE_TOKENS", 4)
            super().show_samples(step)


@contextlib.contextmanager
def as_if_there_were_a_gpu() -> Iterator[None]:
    """Answers for what is asked of a driver: whether autocast can be, what time it is, and what the backward gives."""

    def backward(loss: Tensor) -> None:
        assert loss.device.type == "cuda" and loss.dtype == torch.float32
        for parameter in leaves_of(loss):
            parameter.grad = torch.zeros_like(parameter)

    def grad(outputs: Tensor, inputs: Any, **_: Any) -> list[Tensor]:
        return [torch.zeros_like(one) + 0 * outputs for one in tree_leaves(inputs)]

    with pytest.MonkeyPatch.context() as patch, torch.backends.cudnn.flags(enabled=False):
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(attention, "runs_flash", lambda _: True)
        patch.setattr(Copies, "_stream", None)
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(torch.autograd, "grad", grad)
        patch.setattr(loop, "clock_of", lambda _: meter.HostClock())
        patch.setattr(reading, "read", lambda values: [0.0] * len(values))
        patch.setattr(TorchEngine, "scalars", lambda _: {})  # told at a log alone, where the host may wait
        # an evaluation's end is read on the host
        patch.setattr(EvaluationSums, "totals", lambda _: None)
        patch.setattr(loop, "summarized", lambda *_: Evaluated({"loss": 0.0}, None))
        patch.setattr(replicated, "first_difference", lambda *_: None)
        yield


def with_borders(batch: Batch) -> Batch:
    """As a rank with a GPU reads it (``Rank.to_tensors``, which would pin it)."""
    if "document" not in batch:
        return batch
    with unset_fake_temporarily():
        borders = borders_of(batch["document"].numpy())
        assert borders is not None
        return {**batch, "document_border": torch.from_numpy(borders)}


def leaves_of(loss: Tensor) -> list[Tensor]:
    """The parameters that a loss depends on."""
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [node.variable] if hasattr(node, "variable") else []
        waiting += [before for before, _ in node.next_functions]
    return found


def train_on_fakes(case: Case, precision: str) -> tuple[loop.Outcome, set[str]]:
    """Steps, an evaluation and samples of a case, and the calls that cross devices."""
    plan = small_plan(
        training={
            "max_steps": STEPS, "global_batch_size": SAMPLES, "log_every": 100, "precision": precision,
        },
        micro_batch_size=2,
        evaluate_every=2,
        sample_every=2,
    )  # fmt: skip
    objective = build_objective(case.config, case.objective)
    batches = [random_batch(case, dict(objective.inputs()), SAMPLES, seed=step) for step in range(STEPS)]
    unweighted = [{name: t for name, t in batch.items() if name != "weight"} for batch in batches]
    shares = list(steps_of(unweighted, plan, rank=0))
    with as_if_there_were_a_gpu(), simulated_rank(1) as mode:
        modules, values = build_deferred(lambda: build_modules(case.config, case.objective), 0)
        engine = strategies.prepare(plan, modules, objective, torch.device("cuda", 0), values)
        rank = Rank(plan, objective, engine)

        def fake(batch: Batch) -> Batch:
            return {name: mode.from_tensor(tensor) for name, tensor in with_borders(batch).items()}

        read = (replace(share, micros=[fake(micro) for micro in share.micros]) for share in shares)
        steps = list(rank.on_device(read))
        around = Looking(STEPS, rank.to_device(fake(batches[0])), engine, objective)
        with Crossings() as around.crossings:
            outcome = loop.train(plan, engine, objective, iter(steps), around, 0)
        engine.close()
    assert around.steps("show_samples") == [2, STEPS]
    return outcome, around.crossings.seen


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_tensor_is_on_the_gpu_and_none_is_waited_for(case: Case, precision: str) -> None:
    full = Case(case.name, case.config, case.objective, optional=OPTIONAL)
    outcome, crossings = train_on_fakes(full, precision)
    assert outcome.step == STEPS and any(name.startswith("val/") for name in outcome.metrics)
    assert not crossings


@pytest.mark.parametrize("mistake", ["waits", "crosses", "constant"])
def test_what_would_be_wrong_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[0]
    kind = type(build_objective(case.config, case.objective))
    loss = kind.loss

    def wrong(self: Any, phase: str, modules: Any, batch: Any) -> Any:
        sums = loss(self, phase, modules, batch)
        if mistake == "waits":
            sums.loss.item()
        elif mistake == "crosses":
            batch["label"].cpu()
        else:
            batch["label"] + torch.tensor([1, 2])
        return sums

    monkeypatch.setattr(kind, "loss", wrong)
    if mistake == "waits":
        with pytest.raises(DataDependentOutputException):
            train_on_fakes(case, "fp32")
    elif mistake == "crosses":
        assert train_on_fakes(case, "fp32")[1]
    else:
        with pytest.raises(RuntimeError, match="device"):
            train_on_fakes(case, "fp32")


class Attentions(TorchDispatchMode):
    """Notes the kernels of attention, with the shapes and formats that they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[Any, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "attn" in name or "attention" in name:
            q, k, v, border, *_ = args
            documents = border.numel() if isinstance(border, Tensor) and border.dim() == 1 else None
            self.seen.add((name, tuple(q.shape), tuple(k.shape), q.dtype, documents))
            assert k.shape == v.shape and k.dtype == v.dtype == q.dtype
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gpt-packed", "gpt-llama"])
def test_packed_documents_take_the_kernel_without_a_mask(name: str, precision: str) -> None:
    case = next(case for case in CASES if case.name == name)
    config, micro = case.config, 2
    heads, shared = config.heads, config.heads // config.heads_per_key_value
    width, tokens = config.width // heads, micro * config.context
    batch = with_borders(random_batch(case, dict(build_objective(config, case.objective).inputs()), micro))
    with Attentions() as kernels:
        one_loss(case, batch, precision)
    if precision == "fp32":
        assert not kernels.seen  # torch takes its product by product on fakes: with a mask
        return
    assert kernels.seen == {
        (
            "_varlen_attn",
            (tokens, heads, width),
            (tokens, shared, width),
            {"bf16": torch.bfloat16, "fp16": torch.float16}[precision],
            batch["document_border"].numel(),
        )
    }


def one_loss(case: Case, batch: Batch, precision: str) -> None:
    plan = small_plan(training={"max_steps": 1, "global_batch_size": 2, "precision": precision})
    objective = build_objective(case.config, case.objective)
    with as_if_there_were_a_gpu(), simulated_rank(1) as mode:
        modules, values = build_deferred(lambda: build_modules(case.config, case.objective), 0)
        engine = strategies.prepare(plan, modules, objective, torch.device("cuda", 0), values)
        there = Rank(plan, objective, engine).to_device({n: mode.from_tensor(t) for n, t in batch.items()})
        with engine.autocast():
            loss = objective.loss("model", engine.modules, there).loss
        assert loss.device.type == "cuda"
        engine.close()
