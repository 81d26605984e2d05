from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say


def export(
    run: RunId,
    cluster: ClusterOfRun = None,
    format_: Annotated[
        str, typer.Option("--format", help="safetensors, torch (torch.export) or onnx.")
    ] = "safetensors",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder to write to. Default: ./RUN.")
    ] = None,
    step: Annotated[
        int | None, typer.Option("--step", help="The checkpoint's step. Default: the newest.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a run's model as one file, load it again and compare before calling it done."""
    from pathlib import Path

    from pydantic import TypeAdapter

    from orchestrator import checkpoint, sdk
    from orchestrator.checkpoint.export import export as write
    from orchestrator.errors import NotFoundError
    from orchestrator.models.configs import ModelConfig, ObjectiveSection

    root = sdk.attach(run, cluster).status().urls["checkpoints"]
    if step is None:
        found = checkpoint.newest_good(root)
    else:
        found = next((one for one in checkpoint.committed(root) if one.step == step), None)
    if found is None:
        raise NotFoundError(
            f"{run} has no checkpoint{f' of step {step}' if step is not None else ''} in {root}"
        )
    config = TypeAdapter(ModelConfig).validate_python(found.meta["model"])
    objective = TypeAdapter(ObjectiveSection).validate_python(found.meta["objective"])
    files = write(found, Path(output or run), config, objective, format_)
    if json:
        print_json({"run": run, "step": found.step, "files": [str(file) for file in files]})
    else:
        for file in files:
            say(f"{file}  (step {found.step}, read back and equal)")
