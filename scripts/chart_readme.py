#!/usr/bin/env python3
"""Write the chart's README.md from values.yaml, whose `# --` comments describe each value; --check only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

CHART = Path(__file__).resolve().parents[1] / "helm" / "trainwright"

HEAD = """\
# The trainwright chart

{description}. Guide, network table and what was tested: [docs/helm.md](../../docs/helm.md).

```bash
make charts
helm install train helm/trainwright -n training --create-namespace -f values-mine.yaml
```

`values-mine.yaml` needs the image: `image: {{registry: registry.example.com, repository: trainwright}}`, with the tag `{version}` unless it gives another.
Presets to start from: {presets}.

## Values

| Value | Default | Meaning |
| --- | --- | --- |
"""


def described(values_text: str) -> list[tuple[str, Any, str]]:
    """Every value that a ``# --`` comment stands above: its path, default and description, in order."""
    values = YAML(typ="safe").load(values_text)
    rows: list[tuple[str, Any, str]] = []
    path: list[tuple[int, str]] = []
    comment = ""
    for line in values_text.splitlines():
        text = line.strip()
        if text.startswith("# -- "):
            comment = text.removeprefix("# -- ")
            continue
        if not text or text.startswith(("#", "- ")) or ":" not in text:
            continue
        indent = len(line) - len(line.lstrip())
        path = [(i, key) for i, key in path if i < indent] + [(indent, text.split(":")[0])]
        if comment:
            keys = [key for _, key in path]
            default = values
            for key in keys:
                default = default[key]
            rows.append((".".join(keys), default, comment))
        comment = ""
    return rows


def readme(chart: Path) -> str:
    """The whole README."""
    about = YAML(typ="safe").load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    presets = ", ".join(f"`presets/{p.name}`" for p in sorted((chart / "presets").glob("*.yaml")))
    text = HEAD.format(description=about["description"], version=about["appVersion"], presets=presets)
    for name, default, meaning in described((chart / "values.yaml").read_text(encoding="utf-8")):
        text += f"| `{name}` | `{json.dumps(default)}` | {meaning.replace('|', chr(92) + '|')} |\n"
    return text


def main() -> None:
    """Write, or with --check say whether the file is current."""
    target = CHART / "README.md"
    text = readme(CHART)
    if "--check" in sys.argv[1:]:
        if target.read_text(encoding="utf-8") != text:
            sys.exit("helm/trainwright/README.md is not current: run python scripts/chart_readme.py")
        return
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
