"""How many of the dates of ``examples/translate-dates.yaml`` dateutil's parser, which knows English, reads as Babel wrote them.

python benchmarks/dates_baseline.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from dateutil import parser

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


def main() -> None:
    import dates  # type: ignore[import-not-found]

    rows = dates.rows(6000, 0)
    print(f"{sum(_read(row['written']) == row['iso'] for row in rows) / len(rows):.3f}")


def _read(text: str) -> str:
    try:
        return parser.parse(text, dayfirst=True).date().isoformat()
    except (ValueError, OverflowError):
        return ""


if __name__ == "__main__":
    main()
