from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, print_json, say

if TYPE_CHECKING:
    from pathlib import Path


def init(
    path: Annotated[str, typer.Argument(help="The file to write.", metavar="JOB.yaml")] = "job.yaml",
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            help="The architecture family, on bundled data: mlp, cnn, rnn, lstm, gru, gpt, bert, transformer, gan, autoencoder,"
            " or custom, which also writes a model of your own beside it. Default: cnn.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Your own files: CSV, Parquet, JSON lines, Arrow, numpy, WebDataset, text, a folder of images or"
            " sounds, a manifest of sounds, a Hugging Face folder. The job is written for what they hold.",
            metavar="FILE|FOLDER",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="With --data: the column to predict.", metavar="COLUMN")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    json: AsJson = False,
) -> None:
    """Write a commented job file that runs as it is: of a family, or for data of your own."""
    import re
    from pathlib import Path

    from orchestrator.cli.first_job.bundled import OWN_MODEL, OWN_MODEL_TEXT
    from orchestrator.errors import SpecError

    if data is not None and family is not None:
        raise SpecError(
            "--data looks which family fits; leave --family out, and change model.family in the file"
        )
    if data is None and label is not None:
        raise SpecError("--label names a column of --data; give both")
    file = Path(path)
    code = file.parent / OWN_MODEL
    for one in (file, code) if family == "custom" else (file,):
        if one.exists() and not force:
            raise SpecError(f"{one} is there already; --force overwrites it")
    name = re.sub(r"[^a-z0-9-]+", "-", file.stem.lower())[:40].strip("-") or "job"
    _write(file, _of_family(family or "cnn", name) if data is None else _of_data(data, label, name, file))
    if family == "custom":
        _write(code, OWN_MODEL_TEXT)
    if data is not None:
        _check(file)
    if json:
        print_json({"file": path})
    else:
        say(f"wrote {path}; next: trainwright plan {path}, trainwright run {path}")


def _write(file: Path, text: str) -> None:
    from orchestrator.errors import SpecError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{file} can't be written: {error.strerror}") from None


def _of_family(family: str, name: str) -> str:
    from orchestrator.cli.first_job.bundled import FAMILIES, draft_for_family
    from orchestrator.errors import SpecError
    from orchestrator.registry import suggest_of

    if family not in FAMILIES:
        raise SpecError(f"--family {family}: no such family{suggest_of(family, FAMILIES)}")
    return draft_for_family(family).text(name)


def _of_data(data: str, label: str | None, name: str, file: Path) -> str:
    """The job for somebody's files; the path as it is from the job file's folder, where the two are not one."""
    import os

    from orchestrator.cli.first_job import draft_for_data
    from orchestrator.spec.load import home

    here, there = os.getcwd(), str(file.resolve().parent)  # noqa: PTH109
    if "://" not in data and not os.path.isabs(data) and here != there:  # noqa: PTH117
        data = os.path.relpath(os.path.join(here, data), there)  # noqa: PTH118
    return draft_for_data(data, label, there, str(home() / "cache")).text(name)


def _check(file: Path) -> None:
    """Plan what was written: what init gives away runs. Raises SpecError."""
    from orchestrator.errors import SpecError, TrainwrightError
    from orchestrator.sdk import make_plan

    try:
        make_plan(file)
    except TrainwrightError as error:
        raise SpecError(f"{file} is written, but does not run yet: {error}") from error
