from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from orchestrator.cli.answer import answer
from orchestrator.cli.options import (
    AsJson,
    Averaged,
    BestCheckpoint,
    ClusterOfRun,
    DataFiles,
    FurtherFiles,
    Here,
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
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write Parquet to: new, empty, or of the same predictions. Default, on a cluster: in its storage.",
        ),
    ] = None,
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
    workers: Workers = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", help="Tokens that a language model writes at most. Default: 128.", min=1),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of what it draws. Default: 0.", min=0)] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="At which it draws; 0: the likeliest token each time. Default: 1, as it was trained.",
            min=0,
        ),
    ] = None,
    cluster: ClusterOfRun = None,
    here: Here = False,
    json: AsJson = False,
) -> None:
    """Write what a run's model says of each row of some files, where the run was trained; killed, it goes on where it was."""
    from orchestrator import ask, sdk
    from orchestrator.errors import SpecError

    trained = sdk.stored(run, cluster)
    files = [data, *(further or ())]
    asked: dict[str, Any] = {
        "which": which_checkpoint(best, step),
        "averaged": ema,
        "keep": None if keep is None else [name for name in keep.split(",") if name],
        "tokens": tokens,
        "seed": seed,
        "temperature": temperature,
    }
    if (there := ask.place_of(trained, cluster)) is not None and not here:
        answer(ask.predict(trained, files, output, cluster=there, workers=workers, **asked), json=json)
        return
    if output is None:
        raise SpecError("--output: give the folder to write to")
    made = trained.predict(files, output, workers=workers or 1, on_part=_shown(json), **asked)
    if json:
        print_json(made.model_dump(mode="json"))
    else:
        say(made.sentence)


def _shown(json: bool) -> Callable[[int, int], None]:
    """Says now and then how many files there are."""
    shown_at = time.monotonic()

    def show(done: int, of: int) -> None:
        nonlocal shown_at
        if not json and time.monotonic() - shown_at > _SECONDS_BETWEEN_LINES:
            shown_at = time.monotonic()
            say(f"{done} of {of} files")

    return show
