"""One text from another: what counts, and what is written."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.errors import SpecError
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import (
    CustomConfig,
    HuggingFaceConfig,
    InputTensor,
    SequenceToSequenceConfig,
)
from orchestrator.models.custom import blocks_in
from orchestrator.models.metrics import Totals, summarized
from orchestrator.models.objectives.generation import written

transformers = pytest.importorskip("transformers")

START, END, VOCABULARY, SOURCE, TARGET = 0, 1, 29, 9, 7
FIELDS: dict[str, dict[str, Any]] = {
    "t5": {
        "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0,
        "decoder_start_token_id": START,
    },
    "bart": {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 24, "dropout": 0.0, "pad_token_id": 3,
        "bos_token_id": 2, "forced_eos_token_id": None, "decoder_start_token_id": START,
    },
}  # fmt: skip
INPUTS = {
    "tokens": InputTensor(shape=(None,), kind="int"),
    "target": InputTensor(shape=(None,), kind="int"),
    "length": InputTensor(shape=(), kind="int", optional=True),
}


def config_of(kind: str) -> HuggingFaceConfig:
    return HuggingFaceConfig(
        architecture="any",
        head="seq2seq",
        config={"model_type": kind, "vocab_size": VOCABULARY, "eos_token_id": END, **FIELDS[kind]},
        vocabulary=VOCABULARY,
        context=SOURCE,
        target_context=TARGET,
        inputs=INPUTS,
    )


def objective(**fields: Any) -> SequenceToSequenceConfig:
    return SequenceToSequenceConfig(**{"start_token": START, "end_token": END, **fields})


def batch(samples: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, VOCABULARY, (samples, TARGET), generator=generator)
    length = torch.randint(2, TARGET + 1, (samples,), generator=generator)
    target[torch.arange(samples), length - 1] = END
    return {
        "sample_seed": torch.arange(samples),
        "tokens": torch.randint(4, VOCABULARY, (samples, SOURCE), generator=generator),
        "length": torch.randint(2, SOURCE + 1, (samples,), generator=generator),
        "target": target,
        "target_length": length,
    }


@pytest.fixture(params=FIELDS)
def modules(request: pytest.FixtureRequest) -> dict[str, nn.Module]:
    torch.manual_seed(1)
    made = build_modules(config_of(request.param), objective())
    made["model"].eval()
    with torch.no_grad():
        for parameter in made["model"].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def test_what_fills_up_counts_nowhere(modules: dict[str, nn.Module]) -> None:
    given, made = batch(), build_objective(config_of("t5"), objective(label_smoothing=0.2))
    sums, evaluated = made.loss("model", modules, given), made.evaluate(modules, given)
    longer = {
        **given,
        "tokens": F.pad(given["tokens"], (0, 3), value=5),
        "target": F.pad(given["target"], (0, 4), value=6),
    }
    assert sums.count == made.units("model", longer) == given["target_length"].sum()
    torch.testing.assert_close(made.loss("model", modules, longer).loss, sums.loss)
    for name, (total, count) in made.evaluate(modules, longer).items():
        torch.testing.assert_close(total, evaluated[name][0])
        assert count == evaluated[name][1]
    without = {**given, "weight": torch.tensor([1.0, 0.0, 1.0, 0.0])}
    few = {name: tensor[::2] for name, tensor in given.items()}
    torch.testing.assert_close(
        made.loss("model", modules, without).loss, made.loss("model", modules, few).loss
    )


def test_smoothing_is_of_training_alone_so_perplexity_is_of_the_plain_loss(
    modules: dict[str, nn.Module],
) -> None:
    given = batch()
    plain, smoothed = (
        build_objective(config_of("t5"), objective(label_smoothing=share, metrics=("perplexity",)))
        for share in (0.0, 0.3)
    )
    assert plain.loss("model", modules, given).loss != smoothed.loss("model", modules, given).loss
    total, count = smoothed.evaluate(modules, given)["loss"]
    assert count is not None
    torch.testing.assert_close(total, plain.loss("model", modules, given).loss)
    totals = Totals(sums={"loss": total.double()}, counts={"loss": float(count)})
    found = summarized(("perplexity",), totals).values
    assert found["perplexity"] == pytest.approx(math.exp(float(total / count)), rel=1e-6)


def test_what_is_written_is_what_transformers_generates(modules: dict[str, nn.Module]) -> None:
    given, network = batch(8), modules["model"].network
    network.config.use_cache = True
    mask = (torch.arange(SOURCE) < given["length"][:, None]).long()
    theirs = network.generate(
        input_ids=given["tokens"], attention_mask=mask, max_new_tokens=12, do_sample=False, num_beams=1,
        decoder_start_token_id=START, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    source = {"tokens": given["tokens"], "length": given["length"]}
    options: Any = {"start": START, "end": END, "by_name": True}
    ours = written(modules["model"], source, tokens=12, **options)
    assert torch.equal(F.pad(theirs[:, 1:], (0, 13 - theirs.shape[1]), value=END), ours)
    assert len(ours.unique()) > 3

    class Forgetful(nn.Module):
        def forward(self, tokens: Tensor, target: Tensor, length: Tensor) -> Tensor:
            logits: Tensor = modules["model"](tokens=tokens, target=target, length=length)
            return logits

    assert torch.equal(written(Forgetful(), source, tokens=12, **options), ours)
    ended = written(modules["model"], source, tokens=20, until_ended=True, **options)
    assert torch.equal(ended[:, :12], ours)


@pytest.mark.parametrize(("beams", "penalty"), [(3, 1.0), (4, 0.0), (2, 2.0)])
def test_beams_find_what_those_of_transformers_find(
    modules: dict[str, nn.Module], beams: int, penalty: float
) -> None:
    given, network = batch(8), modules["model"].network
    network.config.use_cache = True
    mask = (torch.arange(SOURCE) < given["length"][:, None]).long()
    theirs = network.generate(
        input_ids=given["tokens"], attention_mask=mask, max_new_tokens=12, do_sample=False, num_beams=beams,
        length_penalty=penalty, early_stopping="never", decoder_start_token_id=START, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    source = {"tokens": given["tokens"], "length": given["length"]}
    options: Any = {"tokens": 12, "start": START, "end": END, "by_name": True, "length_penalty": penalty}
    ours = written(modules["model"], source, beams=beams, **options)
    assert torch.equal(F.pad(theirs[:, 1:], (0, 13 - theirs.shape[1]), value=END), ours)
    assert not torch.equal(ours, written(modules["model"], source, **options))
    assert torch.equal(ours, written(modules["model"], source, beams=beams, until_ended=True, **options))


def test_a_target_that_would_be_written_is_a_match(modules: dict[str, nn.Module]) -> None:
    made = build_objective(config_of("t5"), objective(metrics=("exact_match",)))
    given = batch()
    source: Any = {"tokens": given["tokens"], "length": given["length"]}
    text = written(modules["model"], source, tokens=TARGET, start=START, end=END, by_name=True)
    given |= {"target": text, "target_length": torch.full((4,), TARGET)}
    assert [float(one) for one in made.evaluate(modules, given)["exact_match"]] == [4.0, 4.0]
    given["target"] = text.clone()
    given["target"][0, 2] = (text[0, 2] + 1) % VOCABULARY
    given["target"][1, -1] = (text[1, -1] + 1) % VOCABULARY
    given["target_length"] = torch.tensor([TARGET, TARGET - 1, TARGET, TARGET])
    given["weight"] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert [float(one) for one in made.evaluate(modules, given)["exact_match"]] == [2.0, 3.0]


def test_samples_show_source_target_and_what_is_written(modules: dict[str, nn.Module]) -> None:
    made, given = build_objective(config_of("t5"), objective()), batch()
    shown = made.samples(modules, given, 2)
    assert [sample.name for sample in shown[:3]] == ["text_0/source", "text_0/target", "text_0"]
    assert [sample.read for sample in shown] == [True, False, False] * 2
    assert shown[0].data.tolist() == given["tokens"][0, : given["length"][0]].tolist()
    assert shown[1].data.tolist() == given["target"][0, : given["target_length"][0]].tolist()


def test_an_encoder_and_a_decoder_that_share_an_embedding_are_no_blocks() -> None:
    blocks = {kind: blocks_in(build_modules(config_of(kind), objective())["model"]) for kind in FIELDS}
    assert blocks["t5"] == {"T5Block": 4}
    assert blocks["bart"] == {"BartEncoderLayer": 2, "BartDecoderLayer": 2}
    with pytest.raises(SpecError, match="a T5Stack shares a parameter with a module outside of it"):
        build_modules(config_of("t5").model_copy(update={"blocks": ("T5Stack",)}), objective())


def test_what_lacks_an_end_is_refused() -> None:
    with pytest.raises(SpecError, match="write start_token and end_token"):
        build_objective(config_of("t5"), SequenceToSequenceConfig(start_token=0))
    with pytest.raises(SpecError, match=r"objective.end_token: 29 is not below the model's 29 tokens"):
        build_objective(config_of("t5"), objective(end_token=VOCABULARY))


def test_a_vocabulary_of_the_target_s_own() -> None:
    config = CustomConfig(
        factory="any:thing", vocabulary=5, context=4, target_context=3, target_vocabulary=7, inputs=INPUTS
    )
    specs = build_objective(config, objective()).inputs()
    assert (specs["tokens"].below, specs["target"].below, specs["target"].longest) == (5, 7, 3)
    assert config.output_shape(objective()) == (None, 7)
