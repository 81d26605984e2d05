"""Dates in many languages, as Babel writes them, beside the same date in ISO 8601."""

import datetime
import random

import ray.data
from babel.dates import format_date

LOCALES = ["en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "tr", "id", "fi"]
STYLES = ["full", "long", "medium", "EEEE d MMMM y", "d MMM y"]
FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2100, 1, 1)


def dates(count: int = 6000, seed: int = 0) -> ray.data.Dataset:
    """``id``, ``written`` and ``iso``: no date comes twice."""
    return ray.data.from_items(rows(count, seed))


def rows(count: int, seed: int) -> list[dict[str, int | str]]:
    """The same as a list."""
    draw = random.Random(seed)
    days = draw.sample(range(FIRST.toordinal(), LAST.toordinal()), count)
    return [
        {
            "id": number,
            "written": format_date(
                datetime.date.fromordinal(day), draw.choice(STYLES), locale=draw.choice(LOCALES)
            ),
            "iso": datetime.date.fromordinal(day).isoformat(),
        }
        for number, day in enumerate(days)
    ]
