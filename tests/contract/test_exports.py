"""Every family's checkpoint can be taken elsewhere, and gives the same numbers there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from family_cases import CASES, IDS, Case
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file
from torch import Tensor, nn

from orchestrator.checkpoint import Checkpoint, Checkpoints, graphs, newest_good
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
NOT_ONNX: dict[str, str] = {
    "lstm-lm": "^export: lstm can't be exported as onnx: ONNX has no LSTM with a projection$"
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("name", IDS)
def test_graphs(name: str, kind: str, tmp_path: Path) -> None:
    _export_graph(name, kind, tmp_path)


# a table, masks, a length in both directions, documents, strides: what differs between graphs
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(
    "name",
    [
        "mlp-categories",
        "bert-tokens",
        "lstm-classification",
        "gpt-packed",
        "cnn-signals",
        "rnn-forecasting",
        "transformer-lengths",
    ],
)
def test_a_graph_of_each_kind(name: str, kind: str, tmp_path: Path) -> None:
    _export_graph(name, kind, tmp_path)


def _export_graph(name: str, kind: str, tmp_path: Path) -> None:
    case = CASES[IDS.index(name)]
    checkpoint, modules = saved_case(case, tmp_path / "run")
    refused = (NOT_TORCH if kind == "torch" else NOT_ONNX).get(name)
    if refused is not None:
        with pytest.raises(SpecError, match=refused):
            exports.export(checkpoint, tmp_path / "out", case.config, case.objective, kind)
        return
    files = exports.export(checkpoint, tmp_path / "out", case.config, case.objective, kind, case.optional)
    module = modules.get("model") or modules["generator_ema"]
    written = {file.stem: file for file in files}
    for part, (forward, taken) in graphs.graphs_of(
        module, case.config, case.objective, case.optional
    ).items():
        _equal_at_other_sizes(opened(written.pop(part)), forward, taken)
        assert {"tokens", "length"} <= set(taken.specs) or case.config.family != "bert"
    assert not written, "nothing but the graphs"


def _equal_at_other_sizes(
    run: Callable[[dict[str, Tensor]], Tensor], forward: nn.Module, taken: graphs.Inputs
) -> None:
    lengths = lengths_beside(taken)
    assert (len(lengths) == 3) == bool(set(taken.specs) & set(graphs.LENGTH_AXES))
    for batch in (1, 5):  # the export tried others
        for length in lengths or (None,):
            example = taken.example(batch, length)
            with torch.no_grad():
                expected, got = forward(*example.values()), run(example)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("name", ["transformer-lengths", "transformer-llama"])
def test_an_encoder_and_a_decoder_apart_are_the_whole_model(name: str, kind: str, tmp_path: Path) -> None:
    case = CASES[IDS.index(name)]
    checkpoint, modules = saved_case(case, tmp_path / "run")
    decoder, encoder = exports.export(checkpoint, tmp_path / "out", case.config, case.objective, kind)
    assert [decoder.stem, encoder.stem] == ["decoder", "encoder"]
    assert any(name.startswith("decoder") for name in weights_in(decoder))
    assert any(name.startswith("encoder") for name in weights_in(encoder))
    assert not any(name.startswith(("decoder", "head")) for name in weights_in(encoder))
    assert not any(name.startswith("encoder") for name in weights_in(decoder))
    source = {"tokens": torch.randint(0, 8, (4, 7)), "length": torch.tensor([7, 1, 4, 6])}
    target = torch.randint(0, 8, (4, 3))
    with torch.no_grad():
        expected = modules["model"].eval()(*source.values(), target)
        memory = opened(encoder)(source)
        got = opened(decoder)({"memory": memory, "length": source["length"], "target": target})
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("context", "target_context"), [(48, 12), (24, 24), (8, 2)])
def test_no_length_of_source_and_target_is_fixed(context: int, target_context: int) -> None:
    case = CASES[IDS.index("transformer-lengths")]
    config = case.config.model_copy(update={"context": context, "target_context": target_context})
    module = build_modules(config, case.objective)["model"]
    decoder, taken = graphs.graphs_of(module, config, case.objective, ())["decoder"]
    program = graphs._program(decoder, taken).module()
    for length in (1, context // 2, context):
        for own in range(1, target_context + 1, 5):
            example = {**taken.example(2, length), "target": torch.zeros(2, own, dtype=torch.int64)}
            torch.testing.assert_close(program(*example.values()), decoder(*example.values()))


def weights_in(file: Path) -> set[str]:
    """Names of the tensors that a graph carries, as the model has them."""
    if file.suffix == ".pt2":
        names = set(torch.export.load(file).state_dict)
    else:
        names = {tensor.name for tensor in onnx.load(file).graph.initializer}
    return {name.removeprefix("module.model.") for name in names}


def lengths_beside(taken: graphs.Inputs) -> list[int]:
    """Lengths that the export did not try itself."""
    if not taken.lengths:
        return []
    return [3, 5, taken.longest - 1] if taken.longest else [length + 4 for length in taken.lengths]


def opened(file: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """The graph as its own tools run it."""
    if file.suffix == ".pt2":
        program = torch.export.load(file).module()
        return lambda example: program(*example.values())
    model = onnx.load(file)
    for tensor in model.graph.input:  # a number there would bind whoever runs it
        for axis in {0, graphs.LENGTH_AXES.get(tensor.name, 0)}:
            assert tensor.type.tensor_type.shape.dim[axis].dim_param.isidentifier(), tensor
    evaluator = ReferenceEvaluator(model)

    def run(example: dict[str, Tensor]) -> Tensor:
        (got,) = evaluator.run(None, {name: tensor.numpy() for name, tensor in example.items()})
        return torch.as_tensor(got)

    return run


@pytest.mark.parametrize("kind", ["torch", "onnx", "safetensors"])
def test_an_export_that_fails_leaves_nothing_behind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[0]
    checkpoint, _ = saved_case(case, tmp_path / "run")

    def fail(*_: object) -> None:
        raise CheckpointError("it does not read back the same")

    monkeypatch.setattr(graphs, "_compare", fail)
    monkeypatch.setattr(exports, "_compare_file", fail)
    with pytest.raises(CheckpointError, match="read back"):
        exports.export(checkpoint, tmp_path / "new" / "deep" / "out", case.config, case.objective, kind)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="read back"):
        exports.export(checkpoint, tmp_path / "there", case.config, case.objective, kind)
    assert (tmp_path / "there").is_dir(), "what was there before stays"


def test_files_beside_the_model_come_with_it(tmp_path: Path) -> None:
    case = CASES[0]
    checkpoint, _ = saved_case(case, tmp_path / "run")
    files = exports.export(
        checkpoint,
        tmp_path / "new" / "out",
        case.config,
        case.objective,
        "safetensors",
        beside={"inputs.json": b"{}"},
    )
    assert [file.name for file in files] == ["model.safetensors", "config.json", "inputs.json"]
    assert files[2].read_bytes() == b"{}"
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SpecError, match="a file is in its place"):
        exports.export(checkpoint, tmp_path / "taken", case.config, case.objective, "safetensors")
    assert (tmp_path / "taken").read_text() == "a file"


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
    honest = graphs._program

    def wrong(module: nn.Module, inputs: graphs.Inputs) -> object:
        other = copy.deepcopy(module)
        with torch.no_grad():
            next(other.parameters()).add_(0.1)
        return honest(other, inputs)

    monkeypatch.setattr(graphs, "_program", wrong)
    with pytest.raises(CheckpointError, match="outputs that differ"):
        exports.export(checkpoint, tmp_path / "out", case.config, case.objective, "torch")
