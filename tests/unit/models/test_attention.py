"""Attention among packed documents: what a mask tells and what borders tell is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orchestrator.models import attention, build_modules, build_objective
from orchestrator.models.attention import (
    Seen,
    as_bias,
    borders_of,
    document_mask,
    for_each_query,
    has_kernel,
    positions_in_documents,
    seen_in_documents,
    without_last,
)
from orchestrator.models.configs import CausalLmConfig, GptConfig

CONTEXT = 16
_SIZES: dict[str, Any] = {"vocabulary": 23, "context": CONTEXT, "layers": 2}
CONFIGS = {
    "learned": GptConfig(**_SIZES, heads=2, width=16),
    "rotary, grouped": GptConfig(
        **_SIZES, heads=4, heads_per_key_value=2, width=32, positions="rotary", norm="rms", bias=False
    ),
}
DOCUMENTS = [[0] * 5 + [1] * 9 + [2] * 3, [4] * 17, [0, 1, 2, 3, *[7] * 12, 9]]


class Kernel:
    """torch's variable-length attention by its documentation, on a CPU, which has none; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, border_q: Tensor, border_k: Tensor, most_q: int, most_k: int, *,
        window_size: tuple[int, int], enable_gqa: bool,
    ) -> Tensor:  # fmt: skip
        assert window_size == (-1, 0) and border_q is border_k and border_k.dtype == torch.int32
        assert enable_gqa == (q.shape[1] != k.shape[1])
        assert int(border_q.diff().max()) <= most_q == most_k
        assert border_q[0] == 0 and border_q[-1] == len(q)
        self.given.append({"q": q.shape, "k": k.shape, "border": border_q.tolist()})
        return torch.cat(
            [
                self._alone(q[begin:end], k[begin:end], v[begin:end], enable_gqa)
                for begin, end in zip(border_q.tolist(), border_q.tolist()[1:], strict=False)
            ]
        )

    @staticmethod
    def _alone(q: Tensor, k: Tensor, v: Tensor, shared: bool) -> Tensor:
        if not len(q):
            return q
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)[0].transpose(0, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """As if this machine had the kernel, for any format."""
    made = Kernel()
    monkeypatch.setattr(attention, "varlen_attn", made)
    monkeypatch.setattr(attention, "has_kernel", lambda *_: True)
    return made


def packed_batch(documents: list[list[int]], *, borders: bool) -> dict[str, Tensor]:
    document = np.array(documents)
    batch = {
        "tokens": torch.randint(0, 23, document.shape, generator=torch.Generator().manual_seed(1)),
        "document": torch.from_numpy(document),
        "sample_seed": torch.zeros(len(document), dtype=torch.int64),
    }
    if borders:
        batch["document_border"] = torch.from_numpy(borders_of(document))
    return batch


def loss_and_gradients(config: GptConfig, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(3)
    packed = CausalLmConfig(packed=True)
    modules, objective = build_modules(config, packed), build_objective(config, packed)
    loss = objective.loss("model", modules, batch).loss
    loss.backward()
    return loss, [parameter.grad for parameter in modules["model"].parameters()]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_borders_give_the_numbers_of_a_mask(config: GptConfig, kernel: Kernel) -> None:
    expected = loss_and_gradients(config, packed_batch(DOCUMENTS, borders=False))
    assert not kernel.given
    found = loss_and_gradients(config, packed_batch(DOCUMENTS, borders=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    groups = config.heads // config.heads_per_key_value
    tokens = len(DOCUMENTS) * CONTEXT
    assert [(call["q"][:2], call["k"][:2]) for call in kernel.given] == 2 * [
        ((tokens, config.heads), (tokens, groups))  # keys and values are not repeated
    ]


def test_documents_that_leak_are_seen_here(kernel: Kernel) -> None:
    """The comparison above would notice one border too few."""
    config, batch = CONFIGS["learned"], packed_batch(DOCUMENTS, borders=True)
    expected, _ = loss_and_gradients(config, batch)
    batch["document_border"][1] = 0
    found, _ = loss_and_gradients(config, batch)
    assert (found - expected).abs() > 1e-3


def test_a_model_that_leaves_weights_out_takes_a_mask_in_training_only(kernel: Kernel) -> None:
    config = CONFIGS["learned"].model_copy(update={"dropout": 0.1})
    packed, batch = CausalLmConfig(packed=True), packed_batch(DOCUMENTS, borders=True)
    modules, objective = build_modules(config, packed), build_objective(config, packed)
    objective.loss("model", modules, batch)
    assert not kernel.given
    modules["model"].eval()
    objective.evaluate(modules, batch)
    assert len(kernel.given) == config.layers


@pytest.mark.parametrize(
    ("device", "dtype", "width", "has"),
    [
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.float16, 192, True),
        ("cuda", torch.float32, 64, False),
        ("cuda", torch.bfloat16, 20, False),
        ("cuda", torch.bfloat16, 256, False),
        ("cpu", torch.bfloat16, 64, False),
    ],
)
def test_which_device_and_format_have_the_kernel(
    device: str, dtype: torch.dtype, width: int, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "runs_flash", lambda _: True)
    assert has_kernel(torch.device(device), dtype, width) == has
    monkeypatch.setattr(attention, "runs_flash", lambda _: False)
    assert not has_kernel(torch.device(device), dtype, width)


@pytest.mark.parametrize(("capability", "runs"), [((9, 0), True), ((8, 0), True), ((7, 5), False)])
def test_flash_runs_from_ampere_on(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not attention.runs_flash(torch.device("cuda", 0)) or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert attention.runs_flash(torch.device("cuda", 0)) == runs


def test_autocast_says_which_format_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(attention, "has_kernel", lambda _, dtype, __: asked.append(dtype))
    document = torch.zeros(1, 4, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        seen_in_documents(document, torch.tensor([0, 4]), torch.zeros(1), head_width=8, dropout=0.0)
    seen_in_documents(document, torch.tensor([0, 4]), torch.zeros(1), head_width=8, dropout=0.0)
    assert asked == [torch.bfloat16, torch.float32]


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=4))
def test_borders_are_those_of_the_documents(rows: list[list[int]]) -> None:
    document = np.array(rows)
    borders = borders_of(document)
    comes_back = any(sorted(set(row), key=row.index) != _runs(row) for row in rows)
    assert (borders is None) == comes_back
    if borders is None:
        return
    begins = [i * 6 + t for i, row in enumerate(rows) for t in range(6) if t == 0 or row[t] != row[t - 1]]
    assert borders[: len(begins)].tolist() == begins
    assert (borders[len(begins) :] == document.size).all() and len(borders) > len(begins)
    assert (len(borders) - 1).bit_count() == 1  # a power of two
    # the model reads all but the last token of each sample
    cut = borders_of(document[:, :-1])
    assert cut is not None
    shorter = without_last(torch.from_numpy(borders), 6)
    assert sorted({*shorter.tolist()}) == sorted({*cut.tolist()})


def _runs(row: list[int]) -> list[int]:
    return [number for index, number in enumerate(row) if index == 0 or number != row[index - 1]]


def test_positions_begin_anew_in_each_document() -> None:
    document = torch.tensor([[4, 4, 4, 5, 5, 7], [0, 1, 2, 2, 2, 2]])
    expected = [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]
    mask = document_mask(document)
    assert mask[0, 0, 4].tolist() == [False, False, False, True, True, False]
    border = borders_of(document.numpy())
    assert border is not None
    for seen in (Seen(mask), Seen(as_bias(mask, torch.bfloat16)), Seen(border_K=torch.from_numpy(border))):
        assert positions_in_documents(seen, document.shape).tolist() == expected


def test_what_a_gpu_adds_to_scores_is_the_mask() -> None:
    document = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    mask, (q, k, v) = document_mask(document), torch.randn(3, 1, 4, 8, 16)
    bias = as_bias(mask, torch.float32)
    given, added = (F.scaled_dot_product_attention(q, k, v, attn_mask=one) for one in (mask, bias))
    torch.testing.assert_close(added, given)


def test_heads_spread_over_their_queries_are_those_that_torch_shares() -> None:
    q, k, v = torch.randn(2, 4, 8, 4), torch.randn(2, 2, 8, 4), torch.randn(2, 2, 8, 4)
    shared = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    spread = F.scaled_dot_product_attention(q, for_each_query(k, 2), for_each_query(v, 2))
    torch.testing.assert_close(spread, shared)
