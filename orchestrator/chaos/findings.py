"""What a run has left, held against what it should have: pure comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.chaos.places import Hit

Point = tuple[str, int, float]
"""Name, step and value of a metric."""
MEASURED_IN_TIME = "system/"
"""Metrics whose values no two runs share."""


@dataclass(frozen=True)
class Samples:
    """What was trained on, as far as it counts, beside the pure order."""

    counted: int
    doubled: int
    missed: int


def samples_against(
    taken: Mapping[tuple[int, int], Mapping[int, Sequence[int]]], order: Sequence[Sequence[int]]
) -> Samples:
    """Hold the samples of the steps that made the final state against the pure order.

    Args:
        taken: by attempt and rank, the samples of each step that it took. Of the attempts that took a step the last one
            counts: all before it ended without a checkpoint that has the step, or the last would not have taken it.
        order: the samples of each step, of step 1 first, as they should be.
    """
    last: dict[int, int] = {}
    for (attempt, _), steps in taken.items():
        for step in steps:
            last[step] = max(attempt, last.get(step, 0))
    got: dict[int, Counter[int]] = {}
    for (attempt, _), steps in taken.items():
        for step, samples in steps.items():
            if last[step] == attempt:
                got.setdefault(step, Counter()).update(samples)
    doubled = missed = counted = 0
    for step in got.keys() | set(range(1, len(order) + 1)):
        have = got.get(step, Counter())
        want = Counter(order[step - 1]) if step <= len(order) else Counter()
        counted += have.total()
        doubled += (have - want).total()
        missed += (want - have).total()
    return Samples(counted, doubled, missed)


@dataclass(frozen=True)
class Points:
    """Metric points beside those of the run that nothing happened to."""

    there: int
    lost: tuple[tuple[str, int], ...]
    doubled: tuple[tuple[str, int], ...]
    other: tuple[tuple[str, int], ...]
    """With another value, or not among the others'."""


def points_against(points: Counter[Point], undisturbed: Counter[Point], *, tolerance: float = 0.0) -> Points:
    """Compare each (name, step). Of what is measured in time only that it is there once counts.

    Args:
        points: each as often as it is there.
        undisturbed: the same of the run that nothing happened to.
        tolerance: relative; 0 asks for the same bits.
    """
    keys = Counter((name, step) for name, step, _ in points.elements())
    wanted = {(name, step): value for name, step, value in undisturbed}
    other = {
        (name, step)
        for name, step, value in points
        if not name.startswith(MEASURED_IN_TIME)
        and not _alike(value, wanted.get((name, step), math.inf), tolerance)
    }
    lost = {key for key in wanted.keys() - keys.keys() if not key[0].startswith(MEASURED_IN_TIME)}
    doubled = {key for key, count in keys.items() if count > 1}
    return Points(points.total(), *(tuple(sorted(found)) for found in (lost, doubled, other)))


def _alike(one: float, other: float, tolerance: float) -> bool:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-12)


@dataclass(frozen=True)
class Recovery:
    """What one fault cost."""

    replayed: int
    """Steps that were taken again, since no checkpoint had them."""
    seconds: float | None
    """From the fault to the next step that no attempt had taken, after a restart where there was one; None where none came."""
    restarts: int
    """Attempts that began because of it."""
    blamed: tuple[int, ...]
    """Workers that were named as those that hang."""


def recovery_from(hit: Hit, told: Sequence[Mapping[str, Any]], until: float = math.inf) -> Recovery:
    """Read a fault's cost from the run's events.

    Args:
        hit: where it was due.
        told: sorted by their times.
        until: when the next fault came, to which all belongs from then on.
    """
    after = [event for event in told if hit.time < event["time"] <= until]
    starts = [event for event in after if event["event"] == "attempt"]
    back = starts[0]["time"] if starts else hit.time
    taken = [event for event in told if _is_step(event) and event["time"] <= back]
    reached = max((event["step"] for event in taken), default=0)
    # what the attempt that was hit had yet to take again was lost by an earlier fault
    begun = max((e["time"] for e in told if e["event"] == "attempt" and e["time"] <= hit.time), default=0.0)
    reached_here = max((event["step"] for event in taken if event["time"] > begun), default=0)
    new = (event for event in after if _is_step(event) and event["time"] > back)
    went_on = next((event for event in new if event["step"] > max(reached, hit.step)), None)
    return Recovery(
        replayed=max((0, *(reached_here - event["start_step"] for event in starts))),
        seconds=round(went_on["time"] - hit.time, 3) if went_on else None,
        restarts=len(starts),
        blamed=tuple(
            sorted({one["rank"] for event in after if event["event"] == "hang" for one in event["blamed"]})
        ),
    )


def _is_step(event: Mapping[str, Any]) -> bool:
    return event["event"] == "metrics" and "system/other_ms" in event["values"]


def points_of_events(told: Iterable[Mapping[str, Any]]) -> Counter[Point]:
    """Metric points of a run that no tracker has: those of its output, a step that was taken again once, as it was last."""
    last = {
        (name, event["step"]): float(value)
        for event in told
        if event["event"] == "metrics"
        for name, value in event["values"].items()
    }
    return Counter((name, step, value) for (name, step), value in last.items())
