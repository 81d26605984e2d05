"""Every family's checkpoint can be taken elsewhere, and gives the same numbers there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from family_cases import CASES, IDS, Case
from safetensors.torch import load_file
from torch import Tensor, nn

from orchestrator.checkpoint import Checkpoint, Checkpoints, newest_good
from orchestrator.checkpoint import export as exports
from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models import build_modules


@dataclass(frozen=True)
class Range:
    kind: str
    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor
    until_update: bool = True


def whole_state(modules: dict[str, nn.Module]) -> Iterator[Range]:
    for module_name, module in modules.items():
        saved = module.state_dict(keep_vars=True)
        for path, tensor in module.named_parameters():
            yield Range(
                "parameter", f"{module_name}/{path}", tuple(tensor.shape), 0, tensor.detach().reshape(-1)
            )
        for path, tensor in module.named_buffers():
            if path in saved:
                yield Range("buffer", f"{module_name}/{path}", tuple(tensor.shape), 0, tensor.reshape(-1))


def saved_case(case: Case, root: Path) -> tuple[Checkpoint, dict[str, nn.Module]]:
    torch.manual_seed(3)
    modules = build_modules(case.config, case.objective)
    Checkpoints(str(root), attempt=1, rank=0, world_size=1).save(
        1, whole_state(modules), {}, asynchronous=False
    )
    found = newest_good(str(root))
    assert found is not None
    return found, modules


@pytest.mark.parametrize("name", IDS)
def test_weights_in_one_file(name: str, tmp_path: Path) -> None:
    case = CASES[IDS.index(name)]
    checkpoint, modules = saved_case(case, tmp_path / "run")
    files = exports.export(checkpoint, tmp_path / "out", case.config, case.objective, "safetensors")
    assert [file.name for file in files] == ["model.safetensors", "config.json"]
    stored = load_file(files[0])
    expected = {part.name: part.values.reshape(part.shape) for part in whole_state(modules)}
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], tensor) for key, tensor in expected.items())


# torch's own reasons, kept here so that a new torch that can do more is noticed
NOT_TORCH: dict[str, str] = {}
NOT_ONNX: dict[str, str] = {"lstm-lm": "lstm can't be exported as onnx"}  # an LSTM with a projection


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("name", IDS)
def test_graphs(name: str, kind: str, tmp_path: Path) -> None:
    _export_graph(name, kind, tmp_path)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("name", ["mlp-categories"])
def test_a_graph_of_each_kind(name: str, kind: str, tmp_path: Path) -> None:
    _export_graph(name, kind, tmp_path)


def _export_graph(name: str, kind: str, tmp_path: Path) -> None:
    case = CASES[IDS.index(name)]
    checkpoint, _ = saved_case(case, tmp_path / "run")
    refused = (NOT_TORCH if kind == "torch" else NOT_ONNX).get(name)
    if refused is not None:
        with pytest.raises(SpecError, match=refused):
            exports.export(checkpoint, tmp_path / "out", case.config, case.objective, kind)
        return
    (file,) = exports.export(checkpoint, tmp_path / "out", case.config, case.objective, kind)
    assert file.stat().st_size > 0


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    case = CASES[0]
    checkpoint, _ = saved_case(case, tmp_path / "run")
    with pytest.raises(SpecError, match="no such format 'gguf'; there are safetensors, torch, onnx"):
        exports.export(checkpoint, tmp_path / "out", case.config, case.objective, "gguf")


def test_a_graph_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[0]
    checkpoint, _ = saved_case(case, tmp_path / "run")
    honest = exports._program

    def wrong(module: nn.Module, example: dict[str, Tensor]) -> object:
        other = copy.deepcopy(module)
        with torch.no_grad():
            next(other.parameters()).add_(0.1)
        return honest(other, example)

    monkeypatch.setattr(exports, "_program", wrong)
    with pytest.raises(CheckpointError, match="outputs that differ"):
        exports.export(checkpoint, tmp_path / "out", case.config, case.objective, "torch")
