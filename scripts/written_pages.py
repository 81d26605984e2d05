#!/usr/bin/env python3
"""Write every file that is made from the code: references, mistakes and their answers, the chart's README, the
drawing of imports.

    python scripts/written_pages.py [--check]

With --check it only says which of them are not current. A test compares them as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import chart_readme
import cli_reference
import imports_drawing
import job_file_reference
import python_reference
import wrong_jobs

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, Callable[[], str]]:
    """Each file with what makes its text."""
    docs: dict[str, Callable[[], str]] = {
        **{name: partial(str, text) for name, text in job_file_reference.pages().items()},
        "command-line.md": cli_reference.page,
        "python.md": python_reference.page,
        "imports.svg": imports_drawing.drawing,
        "mistakes.md": wrong_jobs.page,
    }
    chart = chart_readme.CHART / "README.md"
    return {ROOT / "docs" / name: make for name, make in docs.items()} | {
        chart: partial(chart_readme.readme, chart.parent)
    }


def main() -> None:
    """Write them, or with --check compare."""
    if "--check" not in sys.argv[1:]:
        for path, make in pages().items():
            path.write_text(make(), encoding="utf-8")
        return
    stale = [
        path
        for path, make in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != make()
    ]
    if stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"not what the code says: {names}; run python scripts/written_pages.py")


if __name__ == "__main__":
    main()
