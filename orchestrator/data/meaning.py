"""What the numbers of a run's samples stand for: a model that learned it can't go on once they stand for something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.data.prepared import PreparedSource
from orchestrator.spec.job import JobSpec

_MOST_NAMES = 100


def meaning_of(
    job: JobSpec,
    train: Sequence[PreparedSource],
    fitted: Sequence[dict[str, Any]],
    preparation: dict[str, Any],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Which column, class and category each number is, and what makes tokens: short and JSON-able, for checkpoints."""
    said = {
        f"columns of {layout.name!r}": _brief(layout.columns)
        for layout in train[0].layouts
        if layout.name != "label"
    }
    said["classes"] = _brief(classes or preparation.get("classes", ()))
    said["series"] = _brief(preparation.get("series", ()))
    said["tokenizer"] = _brief([preparation.get("tokenizer", "")], shown=0)
    for section, learned in zip(job.data.transforms, fitted, strict=True):
        if section.kind == "encode" and section.tensor != "label":
            for place, values in enumerate(learned["values"]):
                said[f"categories of column {place} of {section.tensor!r}"] = _brief(values)
    return said


def changed_meaning(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first number that stands for something else, as a sentence's end; None where all stand for what they did."""
    for what in {**old, **new}:
        if what not in new:
            return f"there are no {what} any more"
        if what not in old:
            return f"there were no {what}"
        if old[what]["hash"] != new[what]["hash"]:
            return _difference(what, old[what], new[what])
    return None


def _difference(what: str, then: dict[str, Any], now: dict[str, Any]) -> str:
    for number, (before, after) in enumerate(zip(then["first"], now["first"], strict=False)):
        if before != after:
            return f"number {number} of the {what} was {before!r}, now it is {after!r}"
    if then["count"] != now["count"]:
        return f"the {what} were {then['count']:,}, now they are {now['count']:,}"
    return f"the {what} is not what it was"


def _brief(values: Sequence[Any], shown: int = _MOST_NAMES) -> dict[str, Any]:
    """How many, the first, and a hash of all."""
    names = [str(value) for value in values]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    return {"count": len(names), "first": names[:shown], "hash": digest}
