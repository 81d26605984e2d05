"""Where autocast would compute in fp16, recurrent layers compute in the format that their weights have by then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.models import recurrent


@pytest.mark.parametrize("kind", recurrent.LAYERS)
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1])])
def test_it_is_that_of_the_weights_as_they_are_gathered(
    kind: str, lengths: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent, "would_be_fp16", lambda x: True)
    layers = recurrent.LAYERS[kind](4, 5, batch_first=True)

    def gather(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        module.to(torch.bfloat16)  # as FSDP does before a forward

    layers.register_forward_pre_hook(gather)
    given = layers(torch.randn(2, 3, 4), *(() if lengths is None else (lengths,)))
    assert (given if lengths is not None else given[0]).dtype == torch.bfloat16


def test_a_cpu_computes_as_it_is_told() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not recurrent.would_be_fp16(torch.zeros(1))
