#!/usr/bin/env python3
"""Print lines of source and tests, the longest files and the longest functions.

    python scripts/size.py [FOLDER]

FOLDER is another checkout, for numbers of before and after. A line is any line of a .py file.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

SOURCE = ("orchestrator", "models", "clusters")
PARTS = {"source": SOURCE, "tests": ("tests",), "scripts and benchmarks": ("scripts", "benchmarks", "docker")}
SHOWN = 5


def files(root: Path, folders: tuple[str, ...]) -> list[Path]:
    """Python files below the folders; ``orchestrator``'s links to the other two are not followed."""
    return [
        path
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        if not any(parent.is_symlink() for parent in path.parents)
    ]


def lines(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[tuple[int, str]]:
    """(lines, name) of each function, decorators left out."""
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, node.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def main() -> None:
    """Print the tables."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    for part, folders in PARTS.items():
        found = files(root, folders)
        print(f"{part:24}{sum(map(lines, found)):>8,} lines in {len(found)} files")
    source = files(root, SOURCE)
    print("longest files of the source")
    for count, path in sorted(((lines(path), path) for path in source), reverse=True)[:SHOWN]:
        print(f"{count:>8,}  {path.relative_to(root)}")
    print("longest functions of the source")
    found_functions = [
        (count, f"{path.relative_to(root)}:{name}") for path in source for count, name in functions(path)
    ]
    for count, name in sorted(found_functions, reverse=True)[:SHOWN]:
        print(f"{count:>8,}  {name}")


if __name__ == "__main__":
    main()
