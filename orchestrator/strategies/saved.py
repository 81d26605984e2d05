"""What an engine asks of a saved state, with the errors of a person who resumes something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from orchestrator.errors import CheckpointError
from orchestrator.state import AVERAGE, StateReader


def shape_of(reader: StateReader, kind: str, name: str) -> tuple[int, ...]:
    """The whole shape of a saved tensor. Raises CheckpointError where there is none."""
    saved = reader.tensors()
    if (kind, name) not in saved:
        raise CheckpointError(f"the checkpoint holds no {kind} {name}; resume with the model that was saved")
    return saved[kind, name][0]


def read_range(
    reader: StateReader, kind: str, name: str, shape: Sequence[int], start: int, stop: int
) -> Tensor:
    """A range of a saved tensor that must have ``shape``, on the CPU. Raises CheckpointError where it has not."""
    if math.prod(shape) == 0:
        return reader.read(kind, name, 0, 0) if (kind, name) in reader.tensors() else _nothing()
    if (saved := shape_of(reader, kind, name)) != tuple(shape):
        raise CheckpointError(
            f"{kind} {name} has shape {saved} in the checkpoint and {tuple(shape)} in the job's model;"
            " resume with the model that was saved"
        )
    return reader.read(kind, name, start, stop)


def moments_of(reader: StateReader, name: str, allowed: Sequence[str]) -> list[str]:
    """Kinds of the moments saved for a parameter. Raises CheckpointError where they are another optimizer's."""
    kinds = [
        kind
        for kind, saved in reader.tensors()
        if saved == name and kind not in ("parameter", "buffer", AVERAGE)
    ]
    if foreign := set(kinds) - set(allowed):
        raise CheckpointError(
            f"the checkpoint holds {', '.join(sorted(foreign))} of {name}, which the job's optimizer does not keep;"
            " resume with the optimizer that was saved"
        )
    return kinds


def check_averages(reader: StateReader, *, kept: bool) -> None:
    """Raises CheckpointError where averages were saved and the job keeps none, or the other way round."""
    if has_averages(reader) != kept:
        there, here = ("an average", "none") if not kept else ("no average", "one")
        raise CheckpointError(
            f"the checkpoint holds {there} of the weights and the job keeps {here}; resume with training.ema as it was"
        )


def has_averages(reader: StateReader) -> bool:
    """Whether averages of the weights were saved."""
    return any(kind == AVERAGE for kind, _ in reader.tensors())


def updates_of(scalars: Mapping[str, float], phase: str) -> int:
    """Updates that the phase's optimizer had made. Raises CheckpointError where the checkpoint has no such phase."""
    if f"updates/{phase}" not in scalars:
        raise CheckpointError(
            f"the checkpoint holds no optimizer of {phase}; resume with the job that was saved"
        )
    return int(scalars[f"updates/{phase}"])


def _nothing() -> Tensor:
    return torch.empty(0)
