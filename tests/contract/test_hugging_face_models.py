"""An architecture of transformers trains here as in a plain loop of torch and transformers, by any strategy."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
import torch.nn.functional as F
from ranks_fixture import Pools, pools

from orchestrator import loop, strategies
from orchestrator.checkpoint import checkpoint_at
from orchestrator.checkpoint.export import export
from orchestrator.models import build_objective, build_with_values
from orchestrator.models.configs import (
    CausalLmConfig,
    ClassificationConfig,
    HuggingFaceConfig,
    InputTensor,
    MaskedLmConfig,
    ObjectiveConfig,
    SequenceToSequenceConfig,
    TokenClassificationConfig,
    with_architecture,
)
from orchestrator.models.initialize import load_weights
from orchestrator.planning.plan import Plan
from orchestrator.state import StateRange
from orchestrator.strategies.replicated import persistent_buffers
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

transformers = pytest.importorskip("transformers")
__all__ = ["pools"]

BATCH, STEPS, TOKENS, VOCABULARY, OUTPUTS, RATE = 8, 20, 12, 61, 3, 0.05
SMOOTHING = 0.1
_TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("causal_lm", _GROUPED),
    "mistral": ("causal_lm", {**_GROUPED, "sliding_window": 4}),
    "qwen2": ("causal_lm", _GROUPED),
    "qwen3": ("causal_lm", {**_GROUPED, "head_dim": 8}),
    "gemma": ("causal_lm", {**_GROUPED, "head_dim": 8}),
    "gpt2": (
        "causal_lm",
        {
            "vocab_size": VOCABULARY, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
            "eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        },
    ),
    "bert": ("sequence_classification", {**_TEXT, **_NO_DROPOUT}),
    "bert-token": ("token_classification", {**_TEXT, **_NO_DROPOUT}),
    "bert-masked": ("masked_lm", {**_TEXT, **_NO_DROPOUT}),
    "t5": (
        "seq2seq",
        {
            "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1,
            "num_heads": 4, "relative_attention_num_buckets": 8, "dropout_rate": 0.0, "decoder_start_token_id": 0,
        },
    ),
    "bart": (
        "seq2seq",
        {
            "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 24,
            "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "decoder_start_token_id": 2,
        },
    ),
    "vit": (
        "image_classification",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 8,
            "patch_size": 4, **_NO_DROPOUT,
        },
    ),
}  # fmt: skip
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero3": {"kind": "zero", "stage": 3},
}
_OBJECTIVES: dict[str, ObjectiveConfig] = {
    "causal_lm": CausalLmConfig(),
    "masked_lm": MaskedLmConfig(mask_token=3),
    "sequence_classification": ClassificationConfig(),
    "token_classification": TokenClassificationConfig(),
    "image_classification": ClassificationConfig(),
    "seq2seq": SequenceToSequenceConfig(label_smoothing=SMOOTHING, start_token=0, end_token=1),
}
_AUTO = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "image_classification": "AutoModelForImageClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


@lru_cache
def written(name: str) -> str:
    """Folder with a random model of theirs."""
    head, fields = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name.partition("-")[0], **fields, num_labels=OUTPUTS)
    folder = tempfile.mkdtemp(prefix="hugging-face-")
    getattr(transformers, _AUTO[head]).from_config(config).save_pretrained(folder)
    return folder


def batch_of(head: str, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, (BATCH, *shape), generator=generator)

    batch = {"sample_seed": draw(0, 2**62)}
    if head == "image_classification":
        return {
            **batch,
            "image": torch.randn(BATCH, 3, 8, 8, generator=generator),
            "label": draw(0, OUTPUTS),
        }
    batch["tokens"] = draw(4, VOCABULARY, TOKENS + 1 if head == "causal_lm" else TOKENS)
    if head == "seq2seq":
        batch |= {"length": draw(3, TOKENS + 1), "target": draw(4, VOCABULARY, TOKENS - 3)}
        batch["target_length"] = draw(2, TOKENS - 2)
    if head == "sequence_classification":
        batch |= {"length": draw(3, TOKENS + 1), "label": draw(0, OUTPUTS)}
    if head == "token_classification":
        batch["label"] = draw(0, OUTPUTS, TOKENS)
    return batch


def config_of(name: str, folder: str) -> HuggingFaceConfig:
    head, _ = ARCHITECTURES[name]
    names = {
        "image_classification": {"image": (3, 8, 8)},
        "sequence_classification": {"tokens": (None,), "length": ()},
        "seq2seq": {"tokens": (None,), "target": (None,), "length": ()},
    }
    inputs = {
        name: InputTensor(shape=shape, kind="float" if name == "image" else "int", optional=name == "length")
        for name, shape in names.get(head, {"tokens": (None,)}).items()
    }
    asked = HuggingFaceConfig(
        architecture=folder,
        head=head,
        outputs=OUTPUTS,
        context=TOKENS,
        target_context=TOKENS - 3,
        inputs=inputs,
    )
    config: Any = with_architecture(asked, "/")
    return config  # type: ignore[no-any-return]


def train(plan: Plan, name: str, folder: str) -> toys.Run:
    """Train it on this rank from the weights in a folder."""
    head, _ = ARCHITECTURES[name]
    torch.set_num_threads(1)
    config, kind = config_of(name, folder), _OBJECTIVES[head]
    modules, values = build_with_values(config, kind, 0)
    load_weights(modules, folder, config=config, values=values)
    objective = build_objective(config, kind)
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"), values)
    around = RecordingSurroundings(stop_at=STEPS)
    batches = (batch_of(head, step) for step in range(STEPS))
    loop.train(plan, engine, objective, steps_of(batches, plan), around, 0)
    run = toys.run_of(engine, around)
    engine.close()
    return run


def plan_for(world_size: int, strategy: dict[str, Any]) -> Plan:
    optimizer = {"kind": "sgd", "learning_rate": RATE, "momentum": 0.9, "weight_decay": 0.0}
    return small_plan(
        world_size,
        strategy=strategy,
        training={
            "max_steps": 100,
            "global_batch_size": BATCH,
            "optimizer": optimizer,
            "schedule": {"kind": "constant"},
            "clip_grad_norm": None,
        },
        micro_batch_size=BATCH // world_size,
        parameters=1000,
    )


def pairs_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """By labels and padding as ``transformers`` has them."""
    mask = (torch.arange(TOKENS) < batch["length"][:, None]).long()
    labels = batch["target"].masked_fill(torch.arange(TOKENS - 3) >= batch["target_length"][:, None], -100)
    start = torch.zeros(BATCH, 1, dtype=torch.long)
    decoder = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, 0)], dim=1)
    logits = model(input_ids=batch["tokens"], attention_mask=mask, decoder_input_ids=decoder).logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)


@lru_cache
def plain(name: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and parameters of a loop that knows nothing of this project."""
    head, _ = ARCHITECTURES[name]
    torch.set_num_threads(1)
    model = getattr(transformers, _AUTO[head]).from_pretrained(written(name), num_labels=OUTPUTS).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    losses = []
    for step in range(STEPS):
        batch = batch_of(head, step)
        if head == "causal_lm":
            logits = model(input_ids=batch["tokens"][:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten())
        elif head == "seq2seq":
            loss = pairs_loss(model, batch)
        elif head == "image_classification":
            loss = F.cross_entropy(model(pixel_values=batch["image"]).logits, batch["label"])
        elif head == "token_classification":
            logits = model(input_ids=batch["tokens"]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch["label"].flatten())
        else:
            mask = (torch.arange(TOKENS) < batch["length"][:, None]).long()
            loss = F.cross_entropy(
                model(input_ids=batch["tokens"], attention_mask=mask).logits, batch["label"]
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: parameter.detach() for name, parameter in model.named_parameters()}


def differences(run: list[toys.Run], name: str) -> tuple[float, float]:
    """The largest of the losses', and of the parameters'."""
    losses, parameters = plain(name)
    ours = {key: value for (kind, key), value in toys.assembled(run).items() if kind == "parameter"}
    assert len(ours) == len(parameters)
    apart = [
        (tensor.flatten() - parameters[key.rpartition("network.")[2]].flatten()).abs().max().item()
        for key, tensor in ours.items()
    ]
    return max(abs(one - other) for one, other in zip(run[0].losses, losses, strict=True)), max(apart)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "bert-masked"])
def test_one_worker_trains_as_a_plain_loop(name: str) -> None:
    of_losses, of_parameters = differences([train(plan_for(1, {"kind": "ddp"}), name, written(name))], name)
    assert of_losses <= 1e-5 and of_parameters <= 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("llama", "gpt2", "t5") else pytest.mark.slow)
        for name in ARCHITECTURES
        if name != "bert-masked"
    ],
)
def test_two_workers_train_as_a_plain_loop(pools: Pools, name: str, strategy: str) -> None:
    runs = pools.run(2, train, plan_for(2, STRATEGIES[strategy]), name, written(name))
    of_losses, of_parameters = differences(runs, name)
    assert of_losses <= 1e-5 and of_parameters <= 1e-5


def test_hidden_words_are_trained_alike_by_one_and_by_two(pools: Pools) -> None:
    name = "bert-masked"
    alone = train(plan_for(1, {"kind": "ddp"}), name, written(name))
    two = pools.run(2, train, plan_for(2, {"kind": "fsdp"}), name, written(name))
    torch.testing.assert_close(torch.tensor(two[0].losses), torch.tensor(alone.losses), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ("qwen2", "mistral")])
def test_an_export_is_what_from_pretrained_loads(name: str, tmp_path: Path) -> None:
    head, _ = ARCHITECTURES[name]
    config, kind = config_of(name, written(name)), _OBJECTIVES[head]
    modules, values = build_with_values(config, kind, 0)
    load_weights(modules, written(name), config=config, values=values)
    state = [
        StateRange("parameter", f"model/{path}", tuple(p.shape), 0, values.of(p).reshape(-1))
        for path, p in modules["model"].named_parameters()
    ] + [
        StateRange("buffer", f"model/{path}", tuple(b.shape), 0, values.of(b).reshape(-1))
        for path, b in persistent_buffers(modules["model"])
    ]
    with toys.checkpoints_in(str(tmp_path / "kept")) as checkpoints:
        assert checkpoints is not None
        checkpoints.save(1, iter(state), {}, asynchronous=False)
    saved = checkpoint_at(str(tmp_path / "kept" / "step-00000001.attempt-1"))
    classes = ("a", "b", "c") if head.endswith("classification") else ()
    export(saved, tmp_path / "out", config, kind, "huggingface", classes=classes)
    loaded = getattr(transformers, _AUTO[head]).from_pretrained(tmp_path / "out").eval()
    first = getattr(transformers, _AUTO[head]).from_pretrained(written(name), num_labels=OUTPUTS).eval()
    batch = batch_of(head, 0)
    taken = {"pixel_values": batch["image"]} if "image" in batch else {"input_ids": batch["tokens"]}
    if head == "seq2seq":
        taken["decoder_input_ids"] = batch["target"]
        assert (loaded.config.decoder_start_token_id, loaded.generation_config.eos_token_id) == (0, 1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**taken).logits, first(**taken).logits, rtol=0, atol=0)
    assert not classes or loaded.config.id2label == dict(enumerate(classes))
