"""``training.deterministic`` through ``plan``: refused on GPUs for what torch has no deterministic algorithm of, and for nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from orchestrator import sdk
from orchestrator.cli.first_job.bundled import OWN_MODEL, OWN_MODEL_TEXT, draft_for_family
from orchestrator.errors import SpecError
from orchestrator.models import FAMILIES
from orchestrator.models.determinism import SOMETIMES, WITHOUT

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn


def _square(x):  # (B, 4) -> (B, 1, 4, 4)
    return x[:, None, :, None] * x[:, None, None, :]


def _cube(x):  # (B, 4) -> (B, 1, 4, 4, 4)
    return x[:, None, :, None, None] * _square(x)[:, :, None]


def _row(x):  # (B, 4) -> (B, 1, 4)
    return x[:, None]


def _unpooled(x, d):
    pool, unpool = ((F.max_pool2d, F.max_unpool2d), (F.max_pool3d, F.max_unpool3d))[d - 2]
    return unpool(*pool(x, 2, return_indices=True), 2)


def _put(x):
    return x.clone().put_(torch.tensor([0]), torch.ones(1))


def _ctc(x):
    steps = x[:, None, :].expand(-1, 6, -1).log_softmax(-1).transpose(0, 1)
    size = len(x)
    labels = torch.ones(size, 2, dtype=torch.long)
    return F.ctc_loss(steps, labels, (6,) * size, (2,) * size)


OPERATIONS = {
    "AdaptiveAvgPool2d": lambda x: F.adaptive_avg_pool2d(_square(x), 3),
    "AdaptiveAvgPool3d": lambda x: F.adaptive_avg_pool3d(_cube(x), 3),
    "AdaptiveMaxPool2d": lambda x: F.adaptive_max_pool2d(_square(x), 3),
    "AvgPool3d": lambda x: F.avg_pool3d(_cube(x), 2),
    "FractionalMaxPool2d": lambda x: F.fractional_max_pool2d(_square(x), 2, output_size=2),
    "FractionalMaxPool3d": lambda x: F.fractional_max_pool3d(_cube(x), 2, output_size=2),
    "MaxUnpool2d": lambda x: _unpooled(_square(x), 2),
    "MaxUnpool3d": lambda x: _unpooled(_cube(x), 3),
    "interpolate (linear)": lambda x: F.interpolate(_row(x), scale_factor=2, mode="linear"),
    "interpolate (bicubic)": lambda x: F.interpolate(_square(x), scale_factor=2, mode="bicubic"),
    "ReflectionPad1d": lambda x: F.pad(_row(x), (1, 1), mode="reflect"),
    "ReflectionPad2d": lambda x: F.pad(_square(x), (1, 1, 1, 1), mode="reflect"),
    "ReflectionPad3d": lambda x: F.pad(_cube(x), (1, 1, 1, 1, 1, 1), mode="reflect"),
    "NLLLoss over places": lambda x: F.nll_loss(_square(x), torch.zeros(len(x), 4, 4, dtype=torch.long)),
    "CTCLoss": _ctc,
    "histc": lambda x: torch.histc(x.detach()),
    "grid_sample": lambda x: F.grid_sample(_square(x), torch.zeros(len(x), 2, 2, 2), align_corners=False),
    "put_": _put,
    "cumsum of fractions": lambda x: x.cumsum(1),
    "bincount with weights": lambda x: torch.bincount(torch.zeros(4, dtype=torch.long), x.detach()[0]),
    "median with indices": lambda x: x.median(1).values,
    "EmbeddingBag (max)": lambda x: F.embedding_bag(
        torch.zeros(len(x), 2, dtype=torch.long), torch.ones(3, 4, requires_grad=True), mode="max"
    ),
    "scatter_reduce (prod)": lambda x: x.scatter_reduce(1, torch.zeros_like(x, dtype=torch.long), x, "prod"),
    # what torch has one of
    "matrix product": lambda x: x @ x.T,
    "convolution": lambda x: F.conv2d(_square(x), torch.ones(1, 1, 3, 3)),
    "cumsum of whole numbers": lambda x: x.detach().long().cumsum(1).float(),
    "median": lambda x: x.median(),
    "EmbeddingBag (mean)": lambda x: F.embedding_bag(torch.zeros(len(x), 2, dtype=torch.long), torch.ones(3, 4)),
    "scatter_reduce (amax)": lambda x: x.scatter_reduce(1, torch.zeros_like(x, dtype=torch.long), x, "amax"),
    "interpolate (bilinear)": lambda x: F.interpolate(_square(x), scale_factor=2, mode="bilinear"),
    "ReplicationPad2d": lambda x: F.pad(_square(x), (1, 1, 1, 1), mode="replicate"),
    "a way by values": lambda x: x * 2 if x.sum().item() > 0 else x,
}


class Uses(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.operation = OPERATIONS[operation]

    def forward(self, features):
        return self.head(features) + 0 * self.operation(features).float().sum()
"""
KNOWN = {*WITHOUT.values(), *(called for called, _ in SOMETIMES.values())}
DETERMINISTIC = ("matrix product", "convolution", "cumsum of whole numbers", "median", "EmbeddingBag (mean)")
DETERMINISTIC += ("scatter_reduce (amax)", "interpolate (bilinear)", "ReplicationPad2d", "a way by values")


def write(folder: Path, job: dict[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def using(operation: str, folder: Path, *, deterministic: bool = True, gpus: int = 1) -> Path:
    (folder / "own_operations.py").write_text(MODEL)
    return write(
        folder,
        {
            "name": "chance",
            "model": {
                "family": "custom",
                "factory": "own_operations:Uses",
                "config": {"operation": operation},
            },
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 2, "global_batch_size": 8, "deterministic": deterministic},
            "scaling": {"gpus_per_worker": gpus},
        },
    )


@pytest.mark.parametrize("operation", sorted(KNOWN))
def test_an_operation_without_a_deterministic_algorithm_is_refused_by_name(
    operation: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        sdk.make_plan(using(operation, tmp_path))
    assert str(refused.value) == (
        f"training.deterministic: the model uses {operation}, of which torch has no deterministic algorithm on a GPU;"
        " use another operation, or write deterministic: false"
    )
    assert sdk.make_plan(using(operation, tmp_path, gpus=0)).job.training.deterministic
    assert not sdk.make_plan(using(operation, tmp_path, deterministic=False)).job.training.deterministic


@pytest.mark.parametrize("operation", DETERMINISTIC)
def test_an_operation_with_one_is_not(operation: str, tmp_path: Path) -> None:
    assert sdk.make_plan(using(operation, tmp_path)).job.training.deterministic


def test_a_model_that_is_built_by_values_is_looked_into_too(tmp_path: Path) -> None:
    path = using("histc", tmp_path)
    job = json.loads(path.read_text())
    job["model"] = {**job["model"], "deferred": False}
    with pytest.raises(SpecError, match="the model uses histc"):
        sdk.make_plan(write(tmp_path, job))


ON_GPUS = ("training.deterministic=true", "scaling.gpus_per_worker=1")


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"huggingface"}))
def test_no_family_is_refused(family: str, tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(draft_for_family(family).text("first"))
    if family == "custom":
        (tmp_path / OWN_MODEL).write_text(OWN_MODEL_TEXT)
    plan = sdk.make_plan(path, overrides=ON_GPUS)
    assert plan.job.training.deterministic and plan.job.scaling.gpus_per_worker == 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_no_architecture_of_hugging_face_is_refused(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.AutoConfig.for_model(kind, vocab_size=512, max_position_embeddings=64, **sizes)
    config.save_pretrained(tmp_path / "small")
    path = tmp_path / "first.yaml"
    path.write_text(draft_for_family("gpt").text("first"))
    model = '{"family": "huggingface", "architecture": "small", "head": "causal_lm"}'
    assert sdk.make_plan(path, overrides=(f"model={model}", *ON_GPUS)).job.training.deterministic
