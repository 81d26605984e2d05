"""The folder that ``logged_model.py`` builds a trained model from: its weights, its config, its inputs."""

from __future__ import annotations

from pathlib import Path

from orchestrator import data
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Prepared
from orchestrator.planning.plan import Plan


def write_model_folder(folder: Path, plan: Plan, prepared: Prepared, saved: Checkpoint) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``inputs.json`` into a folder that is there."""
    from orchestrator.checkpoint.export import to_safetensors

    to_safetensors(saved, folder / "model.safetensors")
    config = plan.job.model_dump_json(include={"model", "objective"}, indent=2)
    (folder / "config.json").write_text(config)
    (folder / "inputs.json").write_text(data.inputs_of(plan.job, prepared).model_dump_json(indent=2))
