"""What a plan is said to hold at most is what a rank holds: the same steps without memory and on real tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks_fixture import Pools, pools

from orchestrator.errors import SpecError
from orchestrator.fitting import changes
from orchestrator.fitting.ask import Simulator, simulator
from orchestrator.fitting.simulate import measure
from orchestrator.models.configs import (
    CausalLmConfig,
    ClassificationConfig,
    CnnConfig,
    CustomConfig,
    GptConfig,
    HuggingFaceConfig,
    InputTensor,
    LstmConfig,
    MlpConfig,
    SequenceToSequenceConfig,
    TransformerConfig,
)
from orchestrator.planning.devices import Device
from orchestrator.planning.peak import Peak
from orchestrator.planning.plan import Plan
from orchestrator.planning.verdict import needed
from orchestrator.testing import small_plan

__all__ = ["pools"]

_FEATURES = {"features": InputTensor(shape=(5,), kind="float")}
MODELS: dict[str, tuple[Any, Any]] = {
    "gpt": (
        GptConfig(layers=2, heads=2, width=64, context=33, vocabulary=199),
        CausalLmConfig(),
    ),
    "gpt in chunks": (
        GptConfig(layers=2, heads=2, width=64, context=33, vocabulary=199),
        CausalLmConfig(chunk_tokens=16),
    ),
    "own": (
        CustomConfig(factory="own_models:build_tagger", outputs=3, inputs=_FEATURES),
        ClassificationConfig(),
    ),
    "own by value": (
        CustomConfig(factory="own_models:build_by_value", outputs=3, inputs=_FEATURES, deferred=False),
        ClassificationConfig(),
    ),
    "hugging face": (
        HuggingFaceConfig(
            architecture="nowhere",
            config={
                "model_type": "gpt2",
                "n_layer": 2,
                "n_head": 2,
                "n_embd": 32,
                "n_positions": 16,
                "vocab_size": 64,
            },
            context=16,
            vocabulary=64,
            inputs={"tokens": InputTensor(shape=(None,), kind="int")},
        ),
        CausalLmConfig(),
    ),
    "lstm": (
        LstmConfig(width=48, embedding_width=48, vocabulary=199, context=33, layers=2),
        CausalLmConfig(),
    ),
    "transformer": (
        TransformerConfig(layers=2, heads=2, width=64, context=24, target_context=12, vocabulary=199),
        SequenceToSequenceConfig(start_token=0, end_token=1),
    ),
    "mlp": (MlpConfig(size="debug", in_features=6, outputs=4), ClassificationConfig()),
    "cnn": (CnnConfig(size="debug", in_channels=2, image_size=8, outputs=3), ClassificationConfig()),
}


def plan_of(
    model: str,
    strategy: dict[str, Any],
    workers: int,
    *,
    gpus: int = 0,
    accumulation: int = 1,
    **training: Any,
) -> Plan:
    plan = small_plan(
        workers,
        strategy=strategy,
        training={"global_batch_size": 4 * workers * accumulation, **training},
        micro_batch_size=4,
        parameters=115_000,
        base_dir=str(Path(__file__).parent),
    )
    config, objective = MODELS[model]
    scaling = plan.job.scaling.model_copy(update={"gpus_per_worker": gpus})
    changed = {"model": config, "objective": objective, "scaling": scaling}
    return plan.model_copy(update={"job": plan.job.model_copy(update=changed)})


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("peaks")) as made:
        yield made


CASES = [
    ("mlp", {"kind": "ddp"}, 1, {}),
    ("gpt", {"kind": "ddp"}, 2, {"accumulation": 2}),
    ("gpt", {"kind": "ddp"}, 2, {"recomputation": "blocks"}),
    ("gpt", {"kind": "ddp"}, 2, {"recomputation": "selective"}),
    ("gpt in chunks", {"kind": "fsdp"}, 2, {}),
    ("gpt", {"kind": "fsdp"}, 2, {"precision": "bf16"}),
    ("cnn", {"kind": "fsdp"}, 2, {"ema": {}}),
    ("lstm", {"kind": "ddp"}, 1, {}),
    ("transformer", {"kind": "fsdp"}, 2, {"recomputation": "blocks"}),
    ("own", {"kind": "fsdp"}, 2, {}),
    ("hugging face", {"kind": "fsdp"}, 2, {"recomputation": "blocks"}),
    ("gpt", {"kind": "zero", "stage": 3}, 2, {"precision": "bf16", "ema": {}}),
]


def least_measured(pools: Pools, plan: Plan, workers: int) -> Peak:
    """Of several where FSDP exchanges: gloo's thread now and then lets go of what it exchanged after the next is made."""
    tries = 5 if plan.job.strategy.kind == "fsdp" else 1
    return min((pools.run(workers, measure, plan)[0] for _ in range(tries)), key=lambda peak: peak.total)


@pytest.mark.parametrize(("model", "strategy", "workers", "more"), CASES)
def test_a_rank_holds_what_was_predicted(
    model: str, strategy: dict[str, Any], workers: int, more: dict[str, Any], asked: Simulator, pools: Pools
) -> None:
    if model == "hugging face":
        pytest.importorskip("transformers")
    plan = plan_of(model, strategy, workers, **more)
    predicted, measured = asked.peak(plan), least_measured(pools, plan, workers)
    assert predicted.total == pytest.approx(measured.total, rel=0.05)
    assert (predicted.averages > 0) == ("ema" in more)
    for part in ("parameters", "masters", "moments", "averages"):
        assert getattr(predicted, part) == pytest.approx(getattr(measured, part), rel=0.02), part


def test_logits_in_chunks_show(asked: Simulator) -> None:
    whole, chunked = (asked.peak(plan_of(name, {"kind": "ddp"}, 1)) for name in ("gpt", "gpt in chunks"))
    assert chunked.logits < 0.3 * whole.logits
    assert chunked.total < whole.total


def test_sharding_and_recomputation_show(asked: Simulator) -> None:
    whole = asked.peak(plan_of("gpt", {"kind": "ddp"}, 4))
    shared = asked.peak(plan_of("gpt", {"kind": "fsdp"}, 4))
    assert shared.parameters < 0.3 * whole.parameters
    kept = asked.peak(plan_of("gpt", {"kind": "ddp"}, 1))
    recomputed = asked.peak(plan_of("gpt", {"kind": "ddp"}, 1, recomputation="blocks"))
    assert recomputed.activations < 0.7 * kept.activations
    selective = asked.peak(plan_of("gpt", {"kind": "ddp"}, 1, recomputation="selective"))
    assert recomputed.activations < selective.activations < kept.activations


def attending(*, packed: bool = False, dropout: float = 0.0, recomputation: str = "none") -> Plan:
    plan = plan_of("gpt", {"kind": "ddp"}, 1, gpus=1, precision="bf16", recomputation=recomputation)
    model = GptConfig(layers=2, heads=4, width=64, context=_LONG, vocabulary=50, dropout=dropout)
    changed = {"model": model, "objective": CausalLmConfig(packed=packed)}
    return plan.model_copy(update={"job": plan.job.model_copy(update=changed)})


_LONG = 256
_H100, _T4 = (Device(name=name, memory=10**9) for name in ("H100", "T4"))


@pytest.mark.parametrize("recomputation", ["none", "selective"])
def test_packed_documents_take_what_the_gpus_kernel_takes(asked: Simulator, recomputation: str) -> None:
    """By their borders nothing more than without documents; on an older GPU what is added to scores, in 16 bits, once."""
    plain, packed = (
        asked.peak(attending(packed=p, recomputation=recomputation), _H100) for p in (False, True)
    )
    assert packed.activations == pytest.approx(plain.activations, rel=0.01)
    older = asked.peak(attending(packed=True, recomputation=recomputation), _T4)
    scores = plan_of("gpt", {"kind": "ddp"}, 1).micro_batch_size * _LONG**2
    assert older.activations - packed.activations == pytest.approx(2 * scores, rel=0.4)


def test_a_gpu_keeps_no_scores_for_dropout(asked: Simulator) -> None:
    plain, dropped = (asked.peak(attending(dropout=share), _H100) for share in (0.0, 0.1))
    heads, layers = 4, 2
    scores = 4 * _LONG**2 * heads * layers  # of a byte each, the least that a mask of dropout would take
    assert 0 < dropped.activations - plain.activations < scores


def test_what_is_offloaded_is_not_on_the_device(asked: Simulator) -> None:
    on_device = asked.peak(plan_of("mlp", {"kind": "fsdp"}, 2, gpus=1))
    offloaded = asked.peak(plan_of("mlp", {"kind": "fsdp", "offload": True}, 2, gpus=1))
    assert offloaded.offloaded > 0
    assert offloaded.total + offloaded.offloaded == on_device.total


def test_an_answer_is_remembered(tmp_path: Path) -> None:
    plan = plan_of("mlp", {"kind": "ddp"}, 1)
    with simulator(tmp_path) as first:
        peak = first.peak(plan)
    with simulator(tmp_path) as second:
        assert second.peak(plan) == peak
        assert second._process is None
        with pytest.raises(SpecError, match="needs whole parameters"):
            second.peak(plan_of("mlp", {"kind": "fsdp"}, 2, optimizer={"kind": "adafactor"}))


def test_of_own_code_nothing_is_remembered(tmp_path: Path) -> None:
    with simulator(tmp_path) as ask:
        assert ask.peak(plan_of("own", {"kind": "ddp"}, 1)).total > 0
        with pytest.raises(SpecError, match=r"model\.deferred: false"):
            ask.peak(plan_of("own by value", {"kind": "ddp"}, 1))
    assert not list(tmp_path.iterdir())


def test_what_workers_do_not_divide_is_less_than_what_one_holds(asked: Simulator) -> None:
    device, plan = Device(name="CPU", memory=10**9), plan_of("gpt", {"kind": "ddp"}, 1)
    undivided = changes.least(plan, device, asked)
    assert undivided is not None
    assert undivided < needed(device, asked.peak(plan_of("gpt", {"kind": "fsdp"}, 4, recomputation="blocks")))
    adafactor = plan_of("gpt", {"kind": "ddp"}, 1, optimizer={"kind": "adafactor"})
    assert changes.least(adafactor, device, asked) is None
