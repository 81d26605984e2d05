"""The drawing of docs/imports.svg: who imports whom, one row for each layer of pyproject.toml.

An arrow is left out where a longer way of arrows says the same, so that what is left can be followed by eye.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
BOX, ROW, GAP, MARGIN = (104, 30), 84, 26, 20
STYLE = """\
  <style>
    rect { fill: #eef3f8; stroke: #33658a; }
    path { fill: none; stroke: #8a9bab; }
    text { font: 13px sans-serif; fill: #1c2b39; text-anchor: middle; }
  </style>
"""


def layers() -> list[list[str]]:
    """The layers that import-linter checks, top first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (drawn,) = [
        contract for contract in settings["contracts"] if contract.get("containers") == ["orchestrator"]
    ]
    return [re.split(r"\s*[|:]\s*", layer) for layer in drawn["layers"]]


def imports(names: set[str]) -> dict[str, set[str]]:
    """Each part of the package -> the parts that it imports, whoever in it does."""
    graph = grimp.build_graph("orchestrator", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {name: set() for name in names}
    for module in graph.modules:
        importer = module.split(".")[1:2]
        for imported in graph.find_modules_directly_imported_by(module):
            if importer and imported.count(".") and importer != imported.split(".")[1:2]:
                found[importer[0]].add(imported.split(".")[1])
    return found


def without_detours(arrows: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The transitive reduction, in order of names."""

    def reached(start: str) -> set[str]:
        return {end for step in arrows[start] for end in {step} | reached(step)}

    return [
        (importer, imported)
        for importer in sorted(arrows)
        for imported in sorted(arrows[importer])
        if not any(imported in reached(other) for other in arrows[importer])
    ]


def drawing() -> str:
    """The SVG."""
    rows = layers()
    width = max(len(row) for row in rows) * (BOX[0] + GAP) + 2 * MARGIN
    places = {
        name: (width / 2 + (column - (len(row) - 1) / 2) * (BOX[0] + GAP), MARGIN + BOX[1] / 2 + line * ROW)
        for line, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    height = (len(rows) - 1) * ROW + BOX[1] + 2 * MARGIN
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">\n{STYLE}'
    for importer, imported in without_detours(imports(set(places))):
        text += _arrow(places[importer], places[imported])
    for name, (x, y) in places.items():
        text += f'  <rect x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}" width="{BOX[0]}" height="{BOX[1]}" rx="5"/>\n'
        text += f'  <text x="{x:g}" y="{y + 4:g}">{name}</text>\n'
    return text + "</svg>\n"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = start, end
    y, to_y = y + BOX[1] / 2, to_y - BOX[1] / 2
    middle = (y + to_y) / 2
    return f'  <path d="M{x:g} {y:g} C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y:g}"/>\n'
