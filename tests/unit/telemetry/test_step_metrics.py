"""The names and values of what is logged of steps."""

from __future__ import annotations

import pytest
import torch

from orchestrator.models.base import Sums
from orchestrator.models.objectives.common import OnePhase
from orchestrator.telemetry.meter import PARTS
from orchestrator.telemetry.step_metrics import (
    MetricSums,
    OwnTimes,
    StepMetrics,
    communication,
    data_waits,
    slowest_rank,
    throughput,
)
from orchestrator.testing import small_plan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SECONDS = {
    **dict.fromkeys(PARTS, 0.0),
    "data_wait": 1.0,
    "forward_backward": 4.0,
    "checkpoint": 2.0,
    "evaluate": 1.0,
}


def test_everything_that_is_logged_of_two_steps():
    plan = small_plan(training={"max_steps": 2, "optimizer": {"learning_rate": 0.5}}, flops_per_sample=10**12)
    metrics = StepMetrics(plan, OnePhase(), CPU)
    for loss, right, norm in ((6.0, 1.0, 7.0), (10.0, 3.0, 9.0)):
        metrics.add_loss(
            "model",
            Sums(torch.tensor(loss), torch.tensor(4), {"accuracy": (torch.tensor(right), torch.tensor(2))}),
        )
        metrics.add_update("model", torch.tensor(norm, dtype=torch.float64))
        metrics.add_step(samples=8, tokens=40)
    means = metrics.means()
    assert means == {"accuracy": 1.0, "loss": 2.0}
    assert metrics.named(means, factor=0.5, epoch=1.5, seconds=SECONDS, own=OwnTimes(3.0)) == {
        "train/accuracy": 1.0,
        "train/loss": 2.0,
        "train/grad_norm": 9.0,
        "train/learning_rate": 0.25,
        "train/epoch": 1.5,
        "system/data_wait_ms": 500.0,
        "system/forward_backward_ms": 2000.0,
        "system/optimizer_ms": 0.0,
        "system/checkpoint_ms": 1000.0,
        "system/evaluate_ms": 500.0,
        "system/samples_ms": 0.0,
        "system/other_ms": 0.0,
        "system/samples_per_second": 2.0,
        "system/tokens_per_second": 10.0,
        "system/model_tflops_per_second": 2.0,
        "system/step_ms": 2500.0,
        "system/data_wait_share": 0.125,
    }


def test_the_slowest_rank_is_told_with_what_it_is_behind():
    assert slowest_rank([4.0]) == {}
    assert slowest_rank([4.0, 9.5]) == {"system/slowest_rank": 1.0, "system/slowest_rank_behind_ms": 5.5}
    assert slowest_rank([4.0, 9.0, 5.0, 4.0]) == {
        "system/slowest_rank": 1.0,
        "system/slowest_rank_behind_ms": 5.0,
    }
    assert communication([4.0, 2.5, 9.0]) == {"system/communication_ms": 2.5}
    assert data_waits([0.25]) == {"system/data_wait_share": 0.25}
    assert data_waits([0.25, 0.5]) == {
        "system/data_wait_share": 0.5,
        "system/data_wait_share_rank_0": 0.25,
        "system/data_wait_share_rank_1": 0.5,
    }


def test_what_nothing_was_counted_of_is_zero():
    sums = MetricSums(CPU)
    assert sums.means() == {}
    sums.add({"loss": (torch.tensor(0.0), torch.tensor(0))})
    assert sums.means() == {"loss": 0.0}


@pytest.mark.parametrize(
    ("name", "share"),
    [("NVIDIA H100 80GB HBM3", 10 / 989), ("NVIDIA H100 PCIe", 10 / 756), ("another", None)],
)
def test_the_share_of_the_peak_is_that_of_all_workers_devices(monkeypatch, name, share):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: name)
    plan = small_plan(2, training={"max_steps": 1, "precision": "bf16"}, flops_per_sample=10**12)
    values = throughput(plan, 20.0, 0.0, CUDA)
    assert values.get("system/mfu") == (None if share is None else pytest.approx(share))
    assert "system/tokens_per_second" not in values


@pytest.mark.parametrize(("precision", "device"), [("fp32", CUDA), ("bf16", CPU)])
def test_there_is_no_share_where_no_peak_is_known(precision, device):
    plan = small_plan(training={"max_steps": 1, "precision": precision}, flops_per_sample=10**12)
    assert throughput(plan, 1.0, 0.0, device) == {
        "system/samples_per_second": 1.0,
        "system/model_tflops_per_second": 1.0,
    }
