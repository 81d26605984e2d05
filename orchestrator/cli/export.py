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
        int | None, typer.Option("--step", help="The checkpoint's step. Default: the newest.", min=0)
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The best checkpoint, by checkpoint.keep.metric.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a run's model as one file, load it again and compare before calling it done."""
    from pathlib import Path

    from pydantic import TypeAdapter

    from orchestrator import checkpoint, sdk
    from orchestrator.checkpoint.export import export as write
    from orchestrator.data import INPUTS
    from orchestrator.errors import SpecError
    from orchestrator.models.configs import ModelConfig, ObjectiveSection

    if best and step is not None:
        raise SpecError("give --best or --step, not both")
    which = checkpoint.BEST if best else checkpoint.NEWEST if step is None else str(step)
    trained = sdk.attach(run, cluster)
    found = trained.checkpoint(which)
    config = TypeAdapter(ModelConfig).validate_python(found.meta["model"])
    objective = TypeAdapter(ObjectiveSection).validate_python(found.meta["objective"])
    code = trained.code(found)
    own = {f"code/{name}": text.encode() for name, text in code.files.items()}
    folder, beside = Path(output or run), {INPUTS: trained.inputs(), **own}
    with code.importable():
        files = write(found, folder, config, objective, format_, found.meta["inputs"], beside)
    if json:
        print_json({"run": run, "step": found.step, "which": which, "files": [str(file) for file in files]})
    else:
        for file in files:
            say(f"{file}  ({checkpoint.described(found, which)}; read back and equal)")
