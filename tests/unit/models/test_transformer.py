"""The transformer with an encoder and a decoder is torch's own, and what it reads once is what it reads anew."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from orchestrator.errors import SpecError
from orchestrator.models import build_modules
from orchestrator.models.configs import SequenceToSequenceConfig, TransformerConfig
from orchestrator.models.huggingface import table
from orchestrator.models.objectives.generation import written
from orchestrator.models.sizes import count
from orchestrator.models.transformer import Transformer

WIDTH, HEADS, HIDDEN, LAYERS, VOCABULARY = 32, 4, 48, 2, 23
OBJECTIVE = SequenceToSequenceConfig(start_token=0, end_token=1)
FIELDS: dict[str, Any] = {
    "vocabulary": VOCABULARY, "context": 12, "width": WIDTH, "heads": HEADS, "layers": LAYERS,
    "feedforward_ratio": HIDDEN / WIDTH, "dropout": 0.0,
}  # fmt: skip


def built(**options: Any) -> Transformer:
    torch.manual_seed(0)
    made: Any = build_modules(TransformerConfig(**{**FIELDS, **options}), OBJECTIVE)["model"]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "tokens": torch.randint(2, VOCABULARY, (3, 9), generator=generator),
        "length": torch.tensor([9, 4, 1]),
        "target": torch.randint(2, VOCABULARY, (3, 7), generator=generator),
    }


def torchs(ours: Transformer, activation: str, *, first: bool) -> nn.Transformer:
    """torch's own, with the same weights."""
    options: Any = {
        "dim_feedforward": HIDDEN,
        "dropout": 0.0,
        "activation": activation,
        "batch_first": True,
        "norm_first": first,
    }
    last = (nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)) if first else (None, None)
    theirs = nn.Transformer(
        WIDTH, HEADS, **options,
        custom_encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, HEADS, **options), LAYERS, last[0], enable_nested_tensor=False
        ),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, **options), LAYERS, last[1]),
    )  # fmt: skip

    def attention(ours: Any, theirs: Any) -> None:
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.project.state_dict())

    def same(ours: Any, theirs: Any) -> None:
        attention(ours.attention.part, theirs.self_attn)
        norms = [ours.attention, ours.feedforward]
        if hasattr(ours, "source_attention"):
            attention(ours.source_attention.part, theirs.multihead_attn)
            norms.insert(1, ours.source_attention)
        for number, branch in enumerate(norms, 1):
            getattr(theirs, f"norm{number}").load_state_dict(branch.norm.state_dict())
        theirs.linear1.load_state_dict(ours.feedforward.part.expand.state_dict())
        theirs.linear2.load_state_dict(ours.feedforward.part.project.state_dict())

    with torch.no_grad():
        for blocks, layers in ((ours.encoder, theirs.encoder.layers), (ours.decoder, theirs.decoder.layers)):
            for one, other in zip(blocks, layers, strict=True):
                same(one, other)
        if first:
            theirs.encoder.norm.load_state_dict(ours.encoder_norm.state_dict())  # type: ignore[union-attr]
            theirs.decoder.norm.load_state_dict(ours.decoder_norm.state_dict())  # type: ignore[union-attr]
    return theirs.eval()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_it_is_torch_s_transformer(norm_first: bool, activation: Any) -> None:
    ours, given = built(norm_first=norm_first, feedforward=activation), batch()
    theirs = torchs(ours, activation, first=norm_first)

    def embedded(tokens_BT: Tensor) -> Tensor:
        place_TW = torch.zeros(tokens_BT.shape[1], WIDTH)
        for position in range(tokens_BT.shape[1]):  # as the paper has it
            for pair in range(0, WIDTH, 2):
                angle = position / 10000 ** (pair / WIDTH)
                place_TW[position, pair], place_TW[position, pair + 1] = math.sin(angle), math.cos(angle)
        return ours.token_embedding(tokens_BT) * math.sqrt(WIDTH) + place_TW

    hidden = torch.arange(9) >= given["length"][:, None]
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    with torch.no_grad():
        y_BTW = theirs(
            embedded(given["tokens"]), embedded(given["target"]), tgt_mask=causal, tgt_is_causal=True,
            src_key_padding_mask=hidden, memory_key_padding_mask=hidden,
        )  # fmt: skip
        want = y_BTW @ ours.token_embedding.weight.T
        got = ours(given["tokens"], given["length"], given["target"])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "learned": {"positions": "learned", "target_context": 20, "norm_first": True, "feedforward": "gelu_tanh"},
    "llama": {
        "positions": "rotary", "heads_per_key_value": 2, "norm": "rms", "norm_first": True, "feedforward": "swiglu",
        "bias": False, "tied_embeddings": False, "decoder_layers": 1,
    },
    "two vocabularies": {"target_vocabulary": 31},
}  # fmt: skip


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_is_read_once_is_what_is_read_anew(options: dict[str, Any], beams: int) -> None:
    model, given = built(**options), batch()
    source: dict[str, Tensor | None] = {"tokens": given["tokens"], "length": given["length"]}
    settings: Any = {"tokens": 11, "start": 0, "end": 1, "by_name": False, "beams": beams}

    class Forgetful(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            logits: Tensor = model(*tensors)
            return logits

    text = written(model, source, **settings)
    assert torch.equal(text, written(Forgetful(), source, **settings)) and len(text.unique()) > 1
    past = model.new_past()
    with torch.no_grad():
        steps = [model(*source.values(), given["target"][:, at : at + 1], past=past) for at in range(7)]
        whole = model(*source.values(), given["target"])
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_fills_up_and_what_comes_after_change_nothing(options: dict[str, Any]) -> None:
    model, given = built(**options), batch()
    other = {name: tensor.clone() for name, tensor in given.items()}
    for row, real in enumerate(given["length"].tolist()):
        other["tokens"][row, real:] = 2
    other["target"][:, 4:] = 3
    with torch.no_grad():
        one, two = (model(x["tokens"], x["length"], x["target"]) for x in (given, other))
    assert torch.equal(one[:, :4], two[:, :4]) and not torch.equal(one, two)


def test_embeddings_are_one_table_where_both_sides_have_one_vocabulary() -> None:
    shared, apart, untied = built(), built(target_vocabulary=31), built(tied_embeddings=False)
    assert shared.head.weight is shared.token_embedding.weight is shared.target_embedding.weight
    assert apart.head.weight is apart.target_embedding.weight is not apart.token_embedding.weight
    tables = {id(one.weight) for one in (untied.head, untied.token_embedding, untied.target_embedding)}
    assert len(tables) == 3


def test_operations_are_counted_for_both_sides() -> None:
    short, long = (count(TransformerConfig(**FIELDS, target_context=length), OBJECTIVE) for length in (4, 8))
    assert long.flops_per_sample > short.flops_per_sample > 0
    assert long.activation_elements_per_sample > short.activation_elements_per_sample
    assert long.parameters == short.parameters == sum(one.numel() for one in built().parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 30, "heads": 4}, "heads 4 does not divide width 30"),
        ({"heads_per_key_value": 3}, "heads_per_key_value 3 does not divide heads 4"),
        (
            {"width": 12, "heads": 4, "positions": "rotary"},
            "rotary positions need an even width per head, not 3",
        ),
        ({"width": 15, "heads": 5}, "sinusoidal positions need an even width, not 15"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TransformerConfig(**fields)


def test_it_has_no_hugging_face_counterpart() -> None:
    with pytest.raises(SpecError, match="family transformer has no Hugging Face counterpart"):
        table(TransformerConfig())
