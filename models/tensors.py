"""TensorSpec: what is expected of one named tensor of a batch. Imports no torch, so that planning can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import DataError


@dataclass(frozen=True)
class TensorSpec:
    """What the objective expects of one named tensor: its shape after the sample dimension (None: any) and kind."""

    shape: tuple[int | None, ...]
    kind: str
    """``float`` or ``int``."""
    below: int | None = None
    """For ints: each value must be at least 0 and below this (classes, vocabulary)."""
    longest: int | None = None
    """Most that the first dimension after the sample may have (a model's context)."""
    ignored: int | None = None
    """For ints: a value that is also allowed and stands for "no target here"."""
    optional: bool = False
    """Whether a batch may lack it."""


def check_batch(batch: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> None:
    """Refuse a batch (of torch tensors or numpy arrays, samples first) that is not as ``specs`` says.

    Raises DataError with one sentence that names the tensor. Reads every value: meant for first batches and tests.
    """
    for name, spec in specs.items():
        if name not in batch:
            if spec.optional:
                continue
            have = ", ".join(sorted(set(batch) - {"sample_seed", "sample_id", "weight"})) or "none"
            raise DataError(
                f"the objective needs a tensor {name!r}, the data has {have}: name its columns in data.columns"
            )
        _check_tensor(name, spec, batch[name])


def _check_tensor(name: str, spec: TensorSpec, tensor: Any) -> None:
    shape = tuple(tensor.shape[1:])
    if len(shape) != len(spec.shape) or any(
        want not in (None, has) for want, has in zip(spec.shape, shape, strict=True)
    ):
        want = tuple("any" if size is None else size for size in spec.shape)
        raise DataError(
            f"a sample's {name!r} has shape {_written(shape)}, but the model takes {_written(want)}: change "
            "data.columns or the model's section"
        )
    if spec.longest is not None and shape[0] > spec.longest:
        raise DataError(
            f"a sample's {name!r} is {shape[0]} long, but the model takes at most {spec.longest}: make the "
            "sequences shorter or the model's context longer"
        )
    # images may come as bytes, which the device makes fractions
    is_float = "float" in str(tensor.dtype) or (name == "image" and "uint8" in str(tensor.dtype))
    if is_float != (spec.kind == "float"):
        raise DataError(f"tensor {name!r} holds {tensor.dtype} values, but the model takes {spec.kind}s")
    if spec.kind == "int" and spec.below is not None:
        values = tensor if spec.ignored is None else tensor[tensor != spec.ignored]
        if 0 in values.shape:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= spec.below:
            raise DataError(
                f"tensor {name!r} holds {low if low < 0 else high}, but its values must be from 0 to "
                f"{spec.below - 1}: mend the data or make the model's section larger"
            )


def _written(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
