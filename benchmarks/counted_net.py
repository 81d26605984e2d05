"""A small network that takes its time in each forward and writes down which rows it was given, whoever trains it."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path

import torch
from torch import distributed, nn

FOLDER = "ROWS_TAKEN"
"""The variable that names the folder of what is written down: a file for each rank of each attempt."""


class CountedNet(nn.Module):
    """The first feature is a row's number and is no input of the network."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds, self._file = seconds, -1
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features: [B, 1 + 4].

        Returns:
            Logits, [B, 3].

        """
        if self.training and distributed.is_initialized():
            self._write_down(features[:, 0])
            time.sleep(self._seconds)
        return self.layers(features[:, 1:])

    def _write_down(self, rows: torch.Tensor) -> None:
        """In the file whatever happens next: also where the process is killed."""
        now = time.time()
        if self._file < 0:
            name = f"{distributed.get_rank()}-{now:.3f}-{secrets.token_hex(4)}"
            self._file = os.open(Path(os.environ[FOLDER], name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(self._file, json.dumps([round(now, 3), rows.long().tolist()]).encode() + b"\n")
