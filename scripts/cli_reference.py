"""The Markdown of docs/command-line.md, from the help texts of the verbs themselves."""

from __future__ import annotations

from typing import Any

import typer.main

from orchestrator.cli.app import app

HEAD = """\
# The command line

<!-- written by scripts/written_pages.py; change the help texts in orchestrator/cli/ instead -->

{help}

{epilog}
"""


def page() -> str:
    """The whole page: every verb in the order of ``trainwright --help``, with its arguments and options."""
    text = HEAD.format(help=app.info.help, epilog=app.info.epilog)
    for verb, command in typer.main.get_group(app).commands.items():
        text += f"\n## {verb}\n\n{_paragraphs(command.help or '')}\n"
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            text += "\n| | Meaning |\n|---|---|\n" + "".join(rows)
    return text


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _row(parameter: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = parameter.metavar or names.upper()
    elif parameter.metavar:
        names = f"{names} {parameter.metavar}"
    default = (
        ""
        if parameter.default in (None, False, "", ()) or parameter.required
        else f" Default: {parameter.default}."
    )
    return f"| `{names}` | {parameter.help or ''}{default} |\n".replace("NAME|FILE", "NAME\\|FILE")
