"""A checkpoint's model in one file that other tools read. Each export is loaded again and compared before it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.checkpoint.format import DTYPE_NAMES, Checkpoint, safetensors_header
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models import build_modules
from orchestrator.models.base import Modules
from orchestrator.models.configs import FamilyConfig, GanConfig, ObjectiveConfig
from orchestrator.models.initialize import restore

FORMATS = ("safetensors", "torch", "onnx")
_CHUNK_ELEMENTS = 4 << 20
_BATCHES = (2, 3)
"""Samples that a graph is traced with, and that it is then tried with."""
_TOLERANCE = 1e-4


def export(
    checkpoint: Checkpoint, folder: Path, config: FamilyConfig, objective: ObjectiveConfig, kind: str
) -> list[Path]:
    """Write the model into ``folder``, which is made, and return the files.

    ``safetensors``: ``model.safetensors`` (parameters and buffers by name) and ``config.json``; ``torch``:
    ``model.pt2`` for ``torch.export.load``; ``onnx``: ``model.onnx``. The last two hold the family's forward with a
    free batch size and are compared with it on random inputs.

    Raises:
        CheckpointError: the checkpoint is damaged, or what was written does not read back the same.
        SpecError: the family has no such export.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "safetensors":
        to_safetensors(checkpoint, folder / "model.safetensors")
        (folder / "config.json").write_text(_config_json(config, objective))
        return [folder / "model.safetensors", folder / "config.json"]
    module, names = _forward_of(load_modules(checkpoint, config, objective), config, objective)
    examples = [_example_inputs(config, objective, batch) for batch in _BATCHES]
    try:
        if kind == "torch":
            return [_to_torch(module, examples, folder / "model.pt2")]
        if kind == "onnx":
            return [_to_onnx(module, examples, names, folder / "model.onnx")]
    except (CheckpointError, SpecError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SpecError(f"export: {config.family} can't be exported as {kind}: {reason[:300]}") from error
    raise SpecError(f"export: no such format {kind!r}; there are {', '.join(FORMATS)}")


def to_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Parameters and buffers by ``module/path`` in one file, fp32; at most 16 MiB in memory at a time.

    Raises CheckpointError where the checkpoint is damaged or the file does not read back the same.
    """
    with CheckpointReader(checkpoint) as reader:
        parts = _model_tensors(reader)
        header = safetensors_header(
            [
                (name, DTYPE_NAMES[dtype], shape, dtype.itemsize * math.prod(shape))
                for _, name, shape, dtype in parts
            ]
        )
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            file.write(header)
            for kind, name, shape, _ in parts:
                for start, stop in _chunks(math.prod(shape)):
                    values = reader.read(kind, name, start, stop)
                    file.write(values.view(torch.uint8).numpy().data)
        _compare_file(reader, temporary)
        temporary.replace(path)


def load_modules(checkpoint: Checkpoint, config: FamilyConfig, objective: ObjectiveConfig) -> Modules:
    """The family's modules with the checkpoint's parameters and buffers, on the CPU, in evaluation mode."""
    modules = build_modules(config, objective)
    with CheckpointReader(checkpoint) as reader, torch.no_grad():
        restore(
            modules,
            {
                name: reader.read(kind, name, 0, math.prod(shape)).reshape(shape)
                for kind, name, shape, _ in _model_tensors(reader)
            },
        )
    for module in modules.values():
        module.eval()
    return modules


def _model_tensors(reader: CheckpointReader) -> list[tuple[str, str, tuple[int, ...], torch.dtype]]:
    return [
        (kind, name, shape, dtype)
        for (kind, name), (shape, dtype) in reader.tensors().items()
        if kind in ("parameter", "buffer")
    ]


def _chunks(elements: int) -> list[tuple[int, int]]:
    return [(at, min(at + _CHUNK_ELEMENTS, elements)) for at in range(0, elements, _CHUNK_ELEMENTS)]


def _compare_file(reader: CheckpointReader, path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for kind, name, shape, _ in _model_tensors(reader):
            stored = file.get_tensor(name)
            for start, stop in _chunks(math.prod(shape)):
                if not torch.equal(stored.reshape(-1)[start:stop], reader.read(kind, name, start, stop)):
                    raise CheckpointError(f"{path}: {name} does not read back as it was written")


def _config_json(config: FamilyConfig, objective: ObjectiveConfig) -> str:
    import json

    sections = {"model": config.model_dump(mode="json"), "objective": objective.model_dump(mode="json")}
    return json.dumps(sections, indent=2) + "\n"


# -- graphs --------------------------------------------------------------------------------------------------


class _Forward(nn.Module):
    """One tensor out, whatever the family returns beside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        output = self.module(*inputs)
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first


def _forward_of(
    modules: Modules, config: FamilyConfig, objective: ObjectiveConfig
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that makes predictions, and the names of its inputs."""
    module = modules["model"] if "model" in modules else modules["generator_ema"]
    return _Forward(module).eval(), tuple(_example_inputs(config, objective, 1))


def _example_inputs(config: FamilyConfig, objective: ObjectiveConfig, batch: int) -> dict[str, Tensor]:
    """Random inputs of the forward, without the optional ones."""
    generator = torch.Generator().manual_seed(batch)
    if isinstance(config, GanConfig):
        return {"noise": torch.randn(batch, config.noise, generator=generator)}
    made = {}
    for name, spec in config.input_tensors(objective).items():
        if spec.optional:
            continue
        free = config.open_size(name) or min((spec.longest or 9) - 1, 32)
        shape = (batch, *(size or free for size in spec.shape))
        if spec.kind == "float":
            made[name] = torch.randn(shape, generator=generator)
        else:
            made[name] = torch.randint(0, spec.below or 2, shape, generator=generator)
        if name == "categories":  # each column has its own number of them
            made[name] %= torch.tensor(getattr(config, "cardinalities", (spec.below or 2,)))
    return made


def _agree(expected: Tensor, got: Tensor, what: str) -> None:
    """Raise CheckpointError where outputs differ by more than rounding."""
    difference = float((expected.float() - got.float()).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"export: {what} gives outputs that differ by {difference:.2g} from the model's"
        )


def _program(module: nn.Module, example: Mapping[str, Tensor]) -> Any:
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    dynamic = (tuple({0: batch} for _ in example),)
    with torch.no_grad():
        return torch.export.export(module, tuple(example.values()), dynamic_shapes=dynamic, strict=False)


def _to_torch(module: nn.Module, examples: list[dict[str, Tensor]], path: Path) -> Path:
    torch.export.save(_program(module, examples[0]), path)
    again = torch.export.load(path).module()
    with torch.no_grad():
        for example in examples:
            _agree(module(*example.values()), again(*example.values()), path.name)
    return path


def _to_onnx(
    module: nn.Module, examples: list[dict[str, Tensor]], names: tuple[str, ...], path: Path
) -> Path:
    try:
        import onnx
        import onnxscript  # noqa: F401
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise SpecError("export: onnx needs the extra: pip install trainwright[onnx]") from error
    program = torch.onnx.export(
        _program(module, examples[0]),
        input_names=list(names),
        output_names=["output"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    onnx.checker.check_model(str(path))
    evaluator = ReferenceEvaluator(str(path))
    with torch.no_grad():
        for example in examples:
            feed = {name: tensor.numpy() for name, tensor in example.items()}
            (got,) = evaluator.run(None, feed)
            _agree(module(*example.values()), torch.as_tensor(got), path.name)
    return path
