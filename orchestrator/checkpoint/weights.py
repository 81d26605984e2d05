"""The parameters of a checkpoint, to start another run from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from orchestrator.checkpoint.find import checkpoint_at, newest_good
from orchestrator.checkpoint.format import Checkpoint, parse_folder_name
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.errors import CheckpointError, SpecError


class CheckpointWeights(Mapping[str, Tensor]):
    """Parameters by ``module/path``, each read and verified when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.meta.get("adapters"):
            raise SpecError(
                f"{checkpoint.path}: holds adapters only; start from the model that they are merged into, which"
                " `trainwright export` writes as safetensors"
            )
        self._meta = checkpoint.meta
        self._reader = CheckpointReader(checkpoint)
        self._shapes = {
            name: shape for (kind, name), (shape, _) in self._reader.tensors().items() if kind == "parameter"
        }

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        return self._reader.read("parameter", name, 0, math.prod(shape)).reshape(shape)

    @property
    def model(self) -> dict[str, Any]:
        """The section of the model that they are of."""
        section: dict[str, Any] = self._meta["model"]
        return section

    def shapes(self) -> dict[str, Tensor]:
        """Tensors without memory by the same names."""
        return {name: torch.empty(shape, device="meta") for name, shape in self._shapes.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def weights_at(path: str) -> CheckpointWeights:
    """The weights of one checkpoint's folder, or of the newest good one in a folder of several.

    Raises CheckpointError where there is none, SpecError where it holds adapters only.
    """
    if parse_folder_name(path.rstrip("/").rpartition("/")[2]) is not None:
        return CheckpointWeights(checkpoint_at(path))
    newest = newest_good(path)
    if newest is None:
        raise CheckpointError(
            f"{path}: here is neither a .safetensors file nor a committed checkpoint; give a file, a folder of"
            " safetensors files, a checkpoint's folder, or a run's folder checkpoints"
        )
    return CheckpointWeights(newest)
