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
from orchestrator.checkpoint.contents import ModelTensors, model_tensors, trained_tensors
from orchestrator.checkpoint.format import DTYPE_NAMES, Checkpoint, safetensors_header
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.checkpoint.start import ADAPTERS, start_of
from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models import adapters, build_modules, huggingface
from orchestrator.models.base import Modules
from orchestrator.models.configs import FamilyConfig, HuggingFaceConfig, ObjectiveConfig
from orchestrator.models.initialize import restore
from orchestrator.spec.job import InitializeSpec

FORMATS = ("safetensors", "torch", "onnx", "huggingface", "peft")
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
    classes: Sequence[str] = (),
) -> list[Path]:
    """Write the model into ``folder``, which is made, and return the files. What fails leaves nothing behind.

    ``safetensors``: ``model.safetensors`` (parameters and buffers by name) and ``config.json``; ``torch``:
    ``model.pt2`` for ``torch.export.load``; ``onnx``: ``model.onnx``. The last two hold the family's forward, with a
    free batch size and, for text, series and signals, a free length; they are compared with it on random inputs. A model with
    ``parts`` is written as a graph of each, as ``encoder.onnx`` and ``decoder.onnx``. Adapters
    are merged in all of these, and in ``huggingface``: ``config.json`` and ``model.safetensors`` for ``from_pretrained``, of an
    architecture of ``transformers`` or of a ``gpt`` or ``bert`` with a counterpart there; ``peft``: they alone, as ``adapter_model.safetensors`` and ``adapter_config.json``.

    Args:
        inputs: optional inputs of the forward that the graph takes too, as ``segment``; it always takes ``length``.
        beside: more files of the folder, by name, or by path within it.
        averaged: the moving averages of its weights instead of them.
        classes: names of the classes, for the formats that have a place for them.

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
            with model_tensors(checkpoint, config, objective, averaged=averaged) as tensors:
                to_safetensors(tensors, Path(scratch) / "model.safetensors")
            (Path(scratch) / "config.json").write_text(_config_json(config, objective))
        elif kind == "huggingface":
            modules = load_modules(checkpoint, config, objective, averaged=averaged)
            _to_huggingface(modules, config, objective, classes, Path(scratch))
        elif kind == "peft":
            to_peft(checkpoint, config, objective, Path(scratch), averaged=averaged)
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
    module = modules["model"] if "model" in modules else modules["generator_ema"]
    try:
        for name, (part, taken) in graphs.graphs_of(module, config, objective, inputs).items():
            if kind == "torch":
                graphs.to_torch(part, taken, folder / f"{name}.pt2")
            else:
                graphs.to_onnx(part, taken, folder / f"{name}.onnx")
    except (CheckpointError, SpecError):
        raise
    except Exception as error:
        raise SpecError(f"export: {config.family} can't be exported as {kind}: {_cause(error)}") from error


def _to_huggingface(
    modules: Modules, config: FamilyConfig, objective: ObjectiveConfig, classes: Sequence[str], folder: Path
) -> None:
    from safetensors.torch import load_file

    if isinstance(config, HuggingFaceConfig):
        from orchestrator.models import transformers_models

        transformers_models.save(folder, modules, objective, classes)
        return
    huggingface.save_huggingface(str(folder), config, modules)
    written = load_file(folder / "model.safetensors")
    for name, tensor in huggingface.to_huggingface(config, modules).items():
        if not torch.equal(written[name], tensor):
            raise CheckpointError(f"{folder}: {name} does not read back as it was written")


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


def to_safetensors(tensors: ModelTensors, path: Path) -> None:
    """Parameters and buffers by ``module/path`` in one file, fp32; at most 16 MiB in memory at a time, or one tensor
    that adapters are merged into.

    Raises CheckpointError where the checkpoint is damaged or the file does not read back the same.
    """
    header = safetensors_header(
        [
            (name, DTYPE_NAMES[dtype], shape, dtype.itemsize * math.prod(shape))
            for name, (shape, dtype) in tensors.shapes.items()
        ]
    )
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(header)
        for name, (shape, _) in tensors.shapes.items():
            for start, stop in _chunks(math.prod(shape)):
                file.write(tensors.read(name, start, stop).view(torch.uint8).numpy().data)
    _compare_file(tensors, temporary)
    temporary.replace(path)


def to_peft(
    checkpoint: Checkpoint, config: FamilyConfig, objective: ObjectiveConfig, folder: Path, *, averaged: bool
) -> None:
    """A checkpoint's adapters, or their averages, in peft's own format.

    Raises:
        SpecError: it has none, or the format can't say which parameters were trained; or the weights below them are others.
        CheckpointError: it is damaged, or what was written does not read back the same.
    """
    from safetensors.torch import load_file, save

    start = start_of(checkpoint, config, objective)
    if start is None:
        raise SpecError(
            "export: this run trained the whole model (no initialize.lora), so there are no adapters"
        )
    spec = InitializeSpec.model_validate(checkpoint.meta[ADAPTERS]["initialize"])
    assert spec.lora is not None
    with CheckpointReader(checkpoint) as reader:
        trained = trained_tensors(reader, averaged=averaged)
    described, tensors = adapters.to_peft(start.modules, spec.lora, trained, spec.weights or "")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(save(tensors, metadata={"format": "pt"}))
    written = load_file(file)
    if differing := [name for name, tensor in tensors.items() if not torch.equal(written[name], tensor)]:
        raise CheckpointError(f"{file}: {differing[0]} does not read back as it was written")
    (folder / "adapter_config.json").write_text(adapters.config_text(described))


def load_modules(
    checkpoint: Checkpoint, config: FamilyConfig, objective: ObjectiveConfig, *, averaged: bool = False
) -> Modules:
    """The family's modules with the checkpoint's parameters and buffers, or with the averages of those that have one, on
    the CPU, in evaluation mode. Adapters are merged.

    Raises:
        SpecError: averages are asked for, and it has none; or the weights below its adapters are others.
    """
    modules = build_modules(config, objective)
    with model_tensors(checkpoint, config, objective, averaged=averaged) as tensors, torch.no_grad():
        restore(
            modules,
            {
                name: tensors.read(name, 0, math.prod(shape)).reshape(shape)
                for name, (shape, _) in tensors.shapes.items()
            },
        )
    for module in modules.values():
        module.eval()
    return modules


def _chunks(elements: int) -> list[tuple[int, int]]:
    return [(at, min(at + _CHUNK_ELEMENTS, elements)) for at in range(0, elements, _CHUNK_ELEMENTS)]


def _compare_file(tensors: ModelTensors, path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name, (shape, _) in tensors.shapes.items():
            stored = file.get_tensor(name)
            for start, stop in _chunks(math.prod(shape)):
                if not torch.equal(stored.reshape(-1)[start:stop], tensors.read(name, start, stop)):
                    raise CheckpointError(f"{path}: {name} does not read back as it was written")


def _config_json(config: FamilyConfig, objective: ObjectiveConfig) -> str:
    import json

    sections = {"model": config.model_dump(mode="json"), "objective": objective.model_dump(mode="json")}
    return json.dumps(sections, indent=2) + "\n"
