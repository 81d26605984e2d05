from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, print_json, say


def explain(
    field: Annotated[
        str,
        typer.Argument(
            help="A field of the job file, with dots: training.optimizer.learning_rate.", metavar="FIELD"
        ),
    ],
    json: AsJson = False,
) -> None:
    """Say what a field is: its type, default and meaning."""
    from orchestrator.spec.job import JobSpec
    from orchestrator.spec.schema import explain as explain_field

    entries = explain_field(JobSpec, field)
    if json:
        print_json(entries)
        return
    for index, entry in enumerate(entries):
        if index:
            say()
        of = f"  ({entry['section']})" if len(entries) > 1 else ""
        say(f"{entry['field']}{of}")
        say(f"  type     {entry['type']}")
        say(
            "  default  "
            + (
                "required"
                if entry["required"]
                else "null"
                if entry["default"] is None
                else str(entry["default"])
            )
        )
        say(f"  meaning  {entry['meaning']}")
        if entry["kinds"]:
            _say_each("kinds", {kind: ", ".join(fields) for kind, fields in entry["kinds"].items()})
        elif entry["fields"]:
            say(f"  fields   {', '.join(entry['fields'])}")
        _say_each(
            "sizes",
            {
                size: ", ".join(f"{name} {value}" for name, value in values.items())
                for size, values in entry["sizes"].items()
            },
        )


def _say_each(title: str, rows: dict[str, str]) -> None:
    """A line for each name, the title before the first."""
    widest = max(map(len, rows), default=0)
    for index, (name, text) in enumerate(rows.items()):
        say(f"  {title if index == 0 else '':<8} {name:<{widest}}  {text}")
