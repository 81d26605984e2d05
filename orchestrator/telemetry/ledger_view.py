"""A ledger as a person reads it: rows, a picture, and the metrics and files that the tracker has of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.ledger import BETWEEN, Ledger
from orchestrator.telemetry.samples import png_of

if TYPE_CHECKING:
    from orchestrator.telemetry.pictures import Pixels

_WIDTH, _MARGIN, _ROW, _BAR = 900, 16, 26, 56
_GREEN, _GRAY = (44, 160, 44), (127, 127, 127)
_COLORS = {
    "step": _GREEN,
    "data wait": (255, 127, 14),
    "checkpoint": (31, 119, 180),
    "evaluate": (148, 103, 189),
    "samples": (227, 119, 194),
    "replay": (214, 39, 40),
    "down": (127, 20, 20),
    "restore": (255, 152, 150),
    "queue": (188, 189, 34),
    "image": (140, 141, 26),
    "environment": (100, 101, 20),
    "waiting for nodes": (219, 219, 141),
    "between launches": (225, 225, 225),
}
_STARTS = ((23, 190, 207), (90, 200, 210), (140, 215, 222), (180, 228, 233))
"""In turn, for the stages of starts."""


def by_size(ledger: Ledger) -> list[tuple[str, float]]:
    """Parts and their seconds, the longest first."""
    return sorted(ledger.seconds.items(), key=lambda item: -item[1])


def ledger_rows(ledger: Ledger) -> dict[str, str]:
    """Name and text of each part, and of all."""
    wall = ledger.wall or 1.0
    parts = {part: f"{seconds:,.1f} s ({seconds / wall:.0%})" for part, seconds in by_size(ledger)}
    of = "its launches' time" if BETWEEN in ledger.seconds else "it"
    return {**parts, "all": f"{ledger.wall:,.1f} s, {ledger.effective:.1%} of {of} effective training time"}


def ledger_metrics(ledger: Ledger) -> dict[str, float]:
    """By the names that the tracker has them under; the stages of starts are one."""
    seconds: dict[str, float] = {}
    for part, spent in ledger.seconds.items():
        name = f"system/ledger/{re.sub(r'[^a-z]+', '_', part.partition(':')[0])}_seconds"
        seconds[name] = seconds.get(name, 0.0) + spent
    return {"system/ledger/effective_training_time": ledger.effective, **seconds}


def files_of_ledger(ledger: Ledger) -> Iterator[tuple[str, bytes]]:
    """Name and content."""
    yield "ledger/ledger.json", ledger.model_dump_json(indent=2).encode()
    yield "ledger/ledger.png", png_of(picture_of_ledger(ledger))


def picture_of_ledger(ledger: Ledger) -> Pixels:
    """(H, W, 3) uint8: one bar of all seconds, and below it each part with its color, its seconds and its share."""
    import numpy as np
    from PIL import Image, ImageDraw

    parts = by_size(ledger)
    height = 2 * _MARGIN + _ROW + _BAR + _MARGIN + _ROW * len(parts)
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    wall, left = ledger.wall or 1.0, float(_MARGIN)
    title = f"{ledger.wall:,.0f} s, {ledger.steps:,} steps: {ledger.effective:.1%} effective training time"
    draw.text((_MARGIN, _MARGIN), title, fill="black", font_size=16)
    top = _MARGIN + _ROW
    for (_, seconds), color in zip(parts, _colors(ledger), strict=True):
        right = left + seconds / wall * (_WIDTH - 2 * _MARGIN)
        if right > left:
            draw.rectangle((left, top, right, top + _BAR), fill=color)
        left = right
    top += _BAR + _MARGIN
    for (part, seconds), color in zip(parts, _colors(ledger), strict=True):
        draw.rectangle((_MARGIN, top + 3, _MARGIN + 14, top + 17), fill=color)
        draw.text((_MARGIN + 24, top + 2), part, fill="black", font_size=14)
        shown = f"{seconds:10,.1f} s   {seconds / wall:6.1%}"
        draw.text((_WIDTH // 2, top + 2), shown, fill="black", font_size=14)
        top += _ROW
    return np.asarray(image)


def _colors(ledger: Ledger) -> Iterator[tuple[int, int, int]]:
    starts = 0
    for part, _ in by_size(ledger):
        if part.startswith("start:"):
            yield _STARTS[starts % len(_STARTS)]
            starts += 1
        else:
            yield _COLORS.get(part, _GRAY)
