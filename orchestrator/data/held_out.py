"""How many rows a split holds out."""

from __future__ import annotations

from orchestrator.errors import DataError


def held_out_rows(rows: int, fraction: float) -> int:
    """How many of ``rows`` are held out: the nearest count, but at least one on each side.

    Raises:
        DataError: there are fewer than two rows.
    """
    if rows < 2:
        raise DataError(f"data.eval: {rows} rows can't be split; name an eval source")
    return min(rows - 1, max(1, round(rows * fraction)))
