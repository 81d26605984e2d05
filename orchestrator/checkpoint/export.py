"""A checkpoint's model in one file that other tools read. Each export is loaded again and compared before it counts."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from orchestrator.checkpoint import graphs
from orchestrator.checkpoint.format import DTYPE_NAMES, Checkpoint, safetensors_header
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models import build_modules
from orchestrator.models.base import Modules
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
from orchestrator.models.initialize import restore
from orchestrator.state import AVERAGE

FORMATS = ("safetensors", "torch", "onnx")
_CHUNK_ELEMENTS = 4 << 20


def export(
    checkpoint: Checkpoint,
    folder: Path,
    config: FamilyConfig,
    objective: ObjectiveConfig,
    kind: str,
    inputs: Collection[str] = (),
    beside: Mapping[str, bytes] = MappingProxyType({}),
    *,
    averaged: bool = False,
) -> list[Path]:
    """Write the model into ``folder``, which is made, and return the files. What fails leaves nothing behind.

    ``safetensors``: ``model.safetensors`` (parameters and buffers by name) and ``config.json``; ``torch``:
    ``model.pt2`` for ``torch.export.load``; ``onnx``: ``model.onnx``. The last two hold the family's forward, with a
    free batch size and, for text, series and signals, a free length; they are compared with it on random inputs.

    Args:
        inputs: optional inputs of the forward that the graph takes too, as ``segment``; it always takes ``length``.
        beside: more files of the folder, by name, or by path within it.
        averaged: the moving averages of its weights instead of them.

    Raises:
        CheckpointError: the checkpoint is damaged, or what was written does not read back the same.
        SpecError: the family has no such export, or the checkpoint no averages.
    """
    if kind not in FORMATS:
        raise SpecError(f"export: no such format {kind!r}; there are {', '.join(FORMATS)}")
    with (
        _folder_made(folder.parent),
        tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch,
    ):
        if kind == "safetensors":
            to_safetensors(checkpoint, Path(scratch) / "model.safetensors", averaged=averaged)
            (Path(scratch) / "config.json").write_text(_config_json(config, objective))
        else:
            modules = load_modules(checkpoint, config, objective, averaged=averaged)
            _to_graph(modules, config, objective, kind, inputs, Path(scratch))
        for name, content in beside.items():
            (Path(scratch) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / name).write_bytes(content)
        with _folder_made(folder):
            return [_moved(file, folder / file.relative_to(scratch)) for file in _in_order(Path(scratch))]


@contextlib.contextmanager
def _folder_made(folder: Path) -> Iterator[None]:
    """A folder that is there; of those that were made for it none stays where something fails."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for one in made:
            with contextlib.suppress(OSError):  # not made, or in use by now
                one.rmdir()
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise SpecError(f"export: {folder} can't be a folder: a file is in its place") from error
        raise


def _to_graph(
    modules: Modules,
    config: FamilyConfig,
    objective: ObjectiveConfig,
    kind: str,
    inputs: Collection[str],
    folder: Path,
) -> None:
    # the module that makes predictions: of a GAN, which has no such inputs, the averaged generator
    module = graphs.Forward(modules["model"] if "model" in modules else modules["generator_ema"]).eval()
    taken = graphs.inputs_of(config, objective, inputs)
    try:
        if kind == "torch":
            graphs.to_torch(module, taken, folder / "model.pt2")
        else:
            graphs.to_onnx(module, taken, folder / "model.onnx")
    except (CheckpointError, SpecError):
        raise
    except Exception as error:
        raise SpecError(f"export: {config.family} can't be exported as {kind}: {_cause(error)}") from error


def _in_order(folder: Path) -> list[Path]:
    """The model first, then what describes it."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(files, key=lambda file: (file.parent != folder, not file.name.startswith("model"), file))


def _moved(file: Path, to: Path) -> Path:
    to.parent.mkdir(exist_ok=True, parents=True)
    return Path(shutil.move(file, to))


def _cause(error: BaseException) -> str:
    """The first line of what was wrong first: torch's exporter reports it below its own advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def to_safetensors(checkpoint: Checkpoint, path: Path, *, averaged: bool = False) -> None:
    """Parameters and buffers by ``module/path`` in one file, fp32; at most 16 MiB in memory at a time.

    Raises:
        CheckpointError: the checkpoint is damaged or the file does not read back the same.
        SpecError: averages are asked for, and it has none.
    """
    with CheckpointReader(checkpoint) as reader:
        parts = _model_tensors(reader, averaged)
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
        _compare_file(reader, parts, temporary)
        temporary.replace(path)


def load_modules(
    checkpoint: Checkpoint, config: FamilyConfig, objective: ObjectiveConfig, *, averaged: bool = False
) -> Modules:
    """The family's modules with the checkpoint's parameters and buffers, or with the averages of those that have one, on
    the CPU, in evaluation mode. Raises SpecError where averages are asked for, and it has none.
    """
    modules = build_modules(config, objective)
    with CheckpointReader(checkpoint) as reader, torch.no_grad():
        restore(
            modules,
            {
                name: reader.read(kind, name, 0, math.prod(shape)).reshape(shape)
                for kind, name, shape, _ in _model_tensors(reader, averaged)
            },
        )
    for module in modules.values():
        module.eval()
    return modules


_Part = tuple[str, str, tuple[int, ...], torch.dtype]
"""Kind, name, shape and dtype of a tensor."""


def _model_tensors(reader: CheckpointReader, averaged: bool) -> list[_Part]:
    there = reader.tensors()
    if averaged and not any(kind == AVERAGE for kind, _ in there):
        raise SpecError("--ema: the checkpoint holds no averages of the weights; train with training.ema")
    parts = []
    for (kind, name), (shape, dtype) in there.items():
        if kind in ("parameter", "buffer"):
            taken = AVERAGE if averaged and (AVERAGE, name) in there else kind
            parts.append((taken, name, shape, dtype if taken == kind else there[taken, name][1]))
    return parts


def _chunks(elements: int) -> list[tuple[int, int]]:
    return [(at, min(at + _CHUNK_ELEMENTS, elements)) for at in range(0, elements, _CHUNK_ELEMENTS)]


def _compare_file(reader: CheckpointReader, parts: Sequence[_Part], path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for kind, name, shape, _ in parts:
            stored = file.get_tensor(name)
            for start, stop in _chunks(math.prod(shape)):
                if not torch.equal(stored.reshape(-1)[start:stop], reader.read(kind, name, start, stop)):
                    raise CheckpointError(f"{path}: {name} does not read back as it was written")


def _config_json(config: FamilyConfig, objective: ObjectiveConfig) -> str:
    import json

    sections = {"model": config.model_dump(mode="json"), "objective": objective.model_dump(mode="json")}
    return json.dumps(sections, indent=2) + "\n"
