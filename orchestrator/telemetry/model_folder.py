"""The folder that ``logged_model.py`` builds a trained model from: its weights, its config, its inputs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import data
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Inputs, Prepared
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord

OWN_CODE = "trainwright.zip"
"""What ``logged_model.py`` puts on the path."""


@dataclass(frozen=True)
class ModelFolder:
    """A trained model, ready to be logged."""

    path: Path
    """``model.safetensors``, ``config.json`` and ``inputs.json``; and in ``code`` a person's own files."""
    saved: Checkpoint
    """The checkpoint that it is."""
    described: str
    """Which one, for a person."""
    inputs: Inputs
    """What it takes."""
    example: tuple[Mapping[str, Any], ...]
    """Rows to ask it with."""


def write_model_folder(
    folder: Path, plan: Plan, prepared: Prepared, saved: Checkpoint, described: str
) -> ModelFolder:
    """Write a checkpoint's model into a folder that is there."""
    from orchestrator.checkpoint.contents import model_tensors
    from orchestrator.checkpoint.export import to_safetensors

    with model_tensors(saved, plan.job.model, plan.job.objective) as tensors:
        to_safetensors(tensors, folder / "model.safetensors")
    config = plan.job.model_dump_json(include={"model", "objective"}, indent=2)
    (folder / "config.json").write_text(config)
    inputs = data.inputs_of(plan.job, prepared)
    (folder / "inputs.json").write_text(inputs.model_dump_json(indent=2))
    for name, text in RunRecord(plan.storage).code(saved.meta["code"]).files.items():
        (folder / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "code" / name).write_text(text, encoding="utf-8")
    return ModelFolder(folder, saved, described, inputs, prepared.example)


def write_own_code(folder: Path) -> Path:
    """This project's package in one file that Python imports from: as 300 files a slow server would take minutes."""
    import orchestrator

    package = Path(orchestrator.__file__).parent
    path = folder / OWN_CODE
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, folders, files in os.walk(package, followlinks=True):
            folders[:] = sorted(set(folders) - {"__pycache__"})
            for name in sorted(files):
                whole = Path(place, name)
                archive.write(whole, whole.relative_to(package.parent))
    return path
