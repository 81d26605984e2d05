from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import (
    AsJson,
    Averaged,
    BestCheckpoint,
    ClusterOfRun,
    RunId,
    StepOfCheckpoint,
    print_json,
    say,
    which_checkpoint,
)


def export(
    run: RunId,
    cluster: ClusterOfRun = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="safetensors, torch (torch.export), onnx, or huggingface (for from_pretrained)."
        ),
    ] = "safetensors",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder to write to. Default: ./RUN.")
    ] = None,
    step: StepOfCheckpoint = None,
    best: BestCheckpoint = False,
    ema: Averaged = False,
    adapters: Annotated[
        bool,
        typer.Option(
            "--adapters", help="Of a run with initialize.lora: its adapters alone, in peft's format."
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a run's model as one file, or its encoder and decoder as one each, load it again and compare before calling it done. Adapters are merged into it."""
    from pathlib import Path

    from pydantic import TypeAdapter

    from orchestrator import checkpoint, sdk
    from orchestrator.checkpoint.export import export as write
    from orchestrator.data import INPUTS, Inputs
    from orchestrator.errors import SpecError
    from orchestrator.models.configs import ModelConfig, ObjectiveSection

    if adapters and format_ != "safetensors":
        raise SpecError(
            f"--adapters writes peft's format, which is safetensors; leave --format {format_} out"
        )
    which = which_checkpoint(best, step)
    trained = sdk.attach(run, cluster)
    found = trained.checkpoint(which)
    config = TypeAdapter(ModelConfig).validate_python(found.meta["model"])
    objective = TypeAdapter(ObjectiveSection).validate_python(found.meta["objective"])
    code = trained.code(found)
    own = {f"code/{name}": text.encode() for name, text in code.files.items()}
    folder, inputs = Path(output or run), Inputs.model_validate_json(trained.inputs())
    tokenizer = inputs.tokenizer_files() if format_ == "huggingface" else {}
    beside = {
        INPUTS: trained.inputs(),
        **own,
        **{name: text.encode() for name, text in tokenizer.items()},
    }
    with code.importable():
        kind = "peft" if adapters else format_
        files = write(
            found,
            folder,
            config,
            objective,
            kind,
            found.meta["inputs"],
            beside,
            averaged=ema,
            classes=inputs.classes,
        )
    if json:
        print_json(
            {
                "run": run,
                "step": found.step,
                "which": which,
                "ema": ema,
                "files": [str(file) for file in files],
            }
        )
    else:
        weights = f"{checkpoint.described(found, which)}{', averaged weights' if ema else ''}"
        for file in files:
            say(f"{file}  ({weights}; read back and equal)")
