"""Every family trains under every strategy as it does alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import engine_toys as toys
import pytest
import torch
from family_cases import IDS
from family_runs import family_plan, train_family
from ranks_fixture import Pools, pools

__all__ = ["pools"]

STEPS = 4
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}
# lstm-classification: lengths differ between ranks, and with them the order in which gradients come
# mlp-missing-labels: ranks differ in how many labels they have
QUICK = (
    "gpt",
    "bert-mlm",
    "transformer-lengths",
    "lstm-classification",
    "mlp-missing-labels",
    "gan",
    "cnn-images",
)


def _plan(world_size: int, strategy: dict[str, Any], **training: Any) -> Any:
    # sgd: adam divides by the root of moments near zero, where rounding decides
    optimizer = {"kind": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0}
    return family_plan(world_size, strategy, optimizer, **training)


@lru_cache
def _alone(name: str) -> toys.Run:
    return train_family(_plan(1, {"kind": "ddp"}), name, STEPS)


def _check(pools: Pools, name: str, strategy: str, **training: Any) -> None:
    runs = pools.run(2, train_family, _plan(2, STRATEGIES[strategy], **training), name, STEPS)
    expected = _alone(name)
    assert all(run.losses == runs[0].losses for run in runs)
    torch.testing.assert_close(
        torch.tensor(runs[0].losses), torch.tensor(expected.losses), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        torch.tensor(runs[0].norms), torch.tensor(expected.norms), rtol=1e-3, atol=1e-5
    )
    got, want = toys.assembled(runs), toys.assembled([expected])
    assert got.keys() == want.keys()
    for key, tensor in want.items():
        torch.testing.assert_close(
            got[key], tensor, rtol=1e-3, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_workers_train_a_family_like_one(pools: Pools, name: str, strategy: str) -> None:
    _check(pools, name, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in IDS if name not in QUICK])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_workers_train_any_family_like_one(pools: Pools, name: str, strategy: str) -> None:
    _check(pools, name, strategy)


@pytest.mark.parametrize(
    "name", ["gpt-llama", "bert-words", "transformer-llama", "autoencoder-variational", "cnn-bottleneck"]
)
@pytest.mark.parametrize("policy", ["blocks", "selective"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_recomputed_activations_change_nothing(pools: Pools, name: str, strategy: str, policy: str) -> None:
    _check(pools, name, strategy, recomputation=policy)


@pytest.mark.parametrize(("name", "whole"), [("gpt-chunks", "gpt"), ("bert-chunks", "bert-mlm")])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2", "zero3"])
def test_logits_in_chunks_change_nothing(pools: Pools, name: str, whole: str, strategy: str) -> None:
    (run, _), expected = (
        pools.run(2, train_family, _plan(2, STRATEGIES[strategy]), name, STEPS),
        _alone(whole),
    )
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)
    assert run.norms == pytest.approx(expected.norms, rel=1e-6)
