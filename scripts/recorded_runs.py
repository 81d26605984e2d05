#!/usr/bin/env python3
"""Write what commands print into the pages that show it. The runs are real, so this takes minutes.

    python scripts/recorded_runs.py [CLONE]

CLONE is a clone of this repository that may be installed already; without it a fresh one is made and thrown away. A
page says which of its blocks are recorded:

    <!-- recorded by scripts/recorded_runs.py -->

    ```
    $ trainwright run examples/digits-cnn.yaml
    ...
    ```

What stands below each ``$ command`` is replaced by what the command prints in the clone, in a home of its own; of a
run's plan and of its lines of progress only a few.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"(?P<head><!-- recorded by scripts/recorded_runs\.py -->\n\n```\n)(?P<session>.*?)(?=```)", re.DOTALL
)
_PLANNED = re.compile(r"(run|model|compute|objective|strategy|every|memory|workers|storage|tracking) {2,}\S")
"""Lines of a printed plan that are left out."""
_STEP = re.compile(r"step \d+/\d+  ")
_STEPS_SHOWN_LAST = 2
_FILES = "files.py"
"""Where commands find the program of docs/your-own-files.md that makes files of each kind."""


@dataclass(frozen=True)
class Recorded:
    """A command of a page and what the page shows of its output."""

    page: Path
    command: str
    shown: str


def recorded() -> list[Recorded]:
    """Everything that pages show so, in their order."""
    return [
        Recorded(page, command, shown)
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for block in _BLOCK.finditer(page.read_text(encoding="utf-8"))
        for command, shown in _calls(block["session"])
    ]


def program_of_own_files() -> str:
    """The program that makes the files of docs/your-own-files.md."""
    page = (ROOT / "docs" / "your-own-files.md").read_text(encoding="utf-8")
    return page.split("```python\n")[1].split("```")[0]


def shortened(output: str) -> str:
    """Output as a page shows it: of a plan what a person looks at first, of progress the first line and the last."""
    lines = [line.rstrip() for line in output.splitlines()]
    plan_ends = lines.index("") if "" in lines else 0
    steps = [number for number, line in enumerate(lines) if _STEP.match(line)]
    hidden = {
        *steps[1:-_STEPS_SHOWN_LAST],
        *(number for number, line in enumerate(lines[:plan_ends]) if _PLANNED.match(line)),
    }
    shown: list[str] = []
    for number, line in enumerate(lines):
        if number not in hidden:
            shown.append(line)
        elif not shown or shown[-1] != "...":
            shown.append("...")
    return "\n".join(shown)


def _calls(session: str) -> list[tuple[str, str]]:
    """Each command of a block with what stands below it."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _write(clone: Path, home: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))},
        "TRAINWRIGHT_HOME": str(home),
        "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
        "COLUMNS": "120",
    }

    @functools.cache
    def printed(command: str) -> str:
        answer = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if answer.returncode:
            sys.exit(f"{command}: exit code {answer.returncode}\n{answer.stdout}")
        text = answer.stdout.replace(str(home), "~/.local/share/trainwright").replace(
            str(clone), "~/trainwright"
        )
        return shortened(text)

    def session(block: re.Match[str]) -> str:
        calls = [f"$ {command}\n{printed(command)}\n" for command, _ in _calls(block["session"])]
        return block["head"] + "\n".join(calls)

    (clone / _FILES).write_text(program_of_own_files(), encoding="utf-8")
    for call in recorded():
        printed(call.command)
    for page in dict.fromkeys(call.page for call in recorded()):
        page.write_text(_BLOCK.sub(session, page.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    """Run each command that a page names, and write what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(sys.argv[1]).resolve() if sys.argv[1:] else Path(folder) / "trainwright"
        if not sys.argv[1:]:
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            subprocess.run(["make", "--silent", "install"], cwd=clone, check=True)
        _write(clone, Path(folder) / "home")


if __name__ == "__main__":
    main()
