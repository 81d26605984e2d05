from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.cli.options import (
    AsJson,
    Averaged,
    BestCheckpoint,
    ClusterOfRun,
    DataFiles,
    FurtherFiles,
    RunOrCheckpoint,
    StepOfCheckpoint,
    Workers,
    print_json,
    say,
    which_checkpoint,
)

_SECONDS_BETWEEN_LINES = 10.0


def predict(
    run: RunOrCheckpoint,
    data: DataFiles,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="Folder to write Parquet to: new, empty, or of the same predictions."
        ),
    ],
    further: FurtherFiles = None,
    step: StepOfCheckpoint = None,
    best: BestCheckpoint = False,
    ema: Averaged = False,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            help="Columns of the data to write beside the predictions. Default: all that hold one number, text or date.",
            metavar="A,B",
        ),
    ] = None,
    workers: Workers = 1,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", help="Tokens that a language model writes at most. Default: 128.", min=1),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of what it draws. Default: 0.", min=0)] = None,
    cluster: ClusterOfRun = None,
    json: AsJson = False,
) -> None:
    """Write what a run's model says of each row of some files; killed, it goes on where it was."""
    from orchestrator import sdk

    shown_at = time.monotonic()

    def show(done: int, of: int) -> None:
        nonlocal shown_at
        if not json and time.monotonic() - shown_at > _SECONDS_BETWEEN_LINES:
            shown_at = time.monotonic()
            say(f"{done} of {of} files")

    made = sdk.stored(run, cluster).predict(
        [data, *(further or ())],
        output,
        which=which_checkpoint(best, step),
        averaged=ema,
        workers=workers,
        keep=None if keep is None else [name for name in keep.split(",") if name],
        tokens=tokens,
        seed=seed,
        on_part=show,
    )
    if json:
        print_json(made.model_dump(mode="json"))
        return
    there = f", {made.parts_kept} files were there" if made.parts_kept else ""
    say(
        f"{made.output}: {made.parts} files by the model of step {made.step}; wrote {made.rows:,} rows now{there}"
    )
