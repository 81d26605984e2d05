from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.checkpoint import Checkpoints
from orchestrator.checkpoint.weights import weights_at
from orchestrator.errors import CheckpointError
from orchestrator.models import build_modules
from orchestrator.models.configs import ClassificationConfig, MlpConfig
from orchestrator.models.initialize import place_weights
from orchestrator.state import StateRange

CONFIG = MlpConfig(size="debug", in_features=4, outputs=3)


def _saved(root: Path, modules, steps: tuple[int, ...]) -> None:
    store = Checkpoints(str(root), attempt=1, rank=0, world_size=1)
    for step in steps:
        ranges = [
            StateRange(kind, f"model/{name}", tuple(p.shape), 0, p.detach().flatten() * factor + step)
            for name, p in modules["model"].named_parameters()
            for kind, factor in (("parameter", 1.0), ("exp_avg", 0.0))
        ]
        store.save(step, ranges, {"step": step}, asynchronous=False)
    store.close()


def test_a_new_model_starts_from_a_runs_newest_checkpoint(tmp_path: Path):
    trained = build_modules(CONFIG, ClassificationConfig())
    _saved(tmp_path, trained, (3, 7))
    fresh = build_modules(CONFIG, ClassificationConfig())
    assert place_weights(fresh, weights_at(str(tmp_path))).is_complete
    for one, other in zip(fresh["model"].parameters(), trained["model"].parameters(), strict=True):
        torch.testing.assert_close(one, other + 7, rtol=0, atol=0)


def test_one_checkpoint_can_be_named(tmp_path: Path):
    trained = build_modules(CONFIG, ClassificationConfig())
    _saved(tmp_path, trained, (3, 7))
    (folder,) = tmp_path.glob("step-*3.attempt-1")
    weights = weights_at(f"{folder}/")
    torch.testing.assert_close(
        weights["model/head.bias"], trained["model"].head.bias.detach() + 3, rtol=0, atol=0
    )


def test_a_folder_without_checkpoints_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"neither a .safetensors file nor a committed checkpoint"):
        weights_at(str(tmp_path))
