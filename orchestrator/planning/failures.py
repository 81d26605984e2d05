"""What failures will cost a run: the expected effective training time, and how often it is best to save. Pure.

Faults come independently of each other at a constant rate, as many as fit the mean time between them; one that strikes loses
the steps since the last checkpoint and a restart, and may strike again during either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.errors import SpecError
from orchestrator.section import parse_seconds

_MOST_HALVINGS = 200
_OWN = ("step", "save", "restart")


@dataclass(frozen=True)
class Failures:
    """How often a run loses a worker, as a person writes it: ``mtbf=6h``, ``mtbf_node=30d,nodes=8,repair=10m``."""

    mtbf: float
    """Seconds between two faults of the whole run, on average."""
    repair: float = 0.0
    """Seconds until a node is there in the place of one that was lost."""
    told: str = ""
    """The same for a person."""
    own: Mapping[str, float] = field(default_factory=dict)
    """What a person knows of the run's costs, in seconds: ``step``, ``save``, ``restart``."""


@dataclass(frozen=True)
class Costs:
    """What a run takes without faults, in seconds."""

    step: float
    """Of one step, which counts."""
    beside: float
    """Beside it, on average: waits for data, evaluations, samples, logs."""
    save: float
    """That training stands still for one checkpoint."""
    restart: float
    """From a fault to the next step: it is noticed, processes start, the checkpoint is read."""
    start: float
    """From the submission to the first step."""
    known_from: str
    """For a person: the run that they were measured in, or that they are assumed."""


@dataclass(frozen=True)
class Expectation:
    """Of a run with one cadence of checkpoints."""

    every_steps: int
    wall: float
    """Seconds from the submission to the end."""
    effective: float
    """Effective training time."""
    faults: float
    """How many are expected."""


def failures_of(text: str, world_size: int) -> Failures:
    """Read what a person wrote.

    Args:
        text: ``mtbf=6h`` of the whole run, or ``mtbf_node=30d`` of one node and, if they are fewer than workers, ``nodes=4``;
            with either ``repair=10m``, ``step=0.5s``, ``save=2s``, ``restart=90s``.
        world_size: workers of the run, each on a node of its own where nothing else is said.

    Raises:
        SpecError: it is written otherwise.
    """
    given = _pairs(text)
    if len(given.keys() & {"mtbf", "mtbf_node"}) != 1:
        raise SpecError(f"--failures {text}: give mtbf=6h (of the whole run) or mtbf_node=30d (of one node)")
    repair = _seconds(given, "repair") if "repair" in given else 0.0
    own = {name: _seconds(given, name) for name in _OWN if name in given}
    if own.get("step") == 0:
        raise SpecError("--failures: step: a step takes time")
    if "mtbf" in given:
        if "nodes" in given:
            raise SpecError(f"--failures {text}: nodes goes with mtbf_node; mtbf is that of the whole run")
        mtbf = _positive(given, "mtbf")
        return Failures(mtbf, repair, f"one every {duration(mtbf)}", own)
    nodes = _count(given.get("nodes", str(world_size)))
    of_node = _positive(given, "mtbf_node")
    told = f"one every {duration(of_node / nodes)}: {nodes} nodes, each one every {duration(of_node)}"
    return Failures(of_node / nodes, repair, told, own)


def expected(failures: Failures, costs: Costs, total_steps: int, every_steps: int) -> Expectation:
    """The expected end of a run that saves every so many steps.

    J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer
    Systems 22 (2006), 303-312, the complete model: with M the mean time between faults, R the restart, d the save and t the work between two
    saves, work T takes ``M e^(R/M) (e^((t+d)/M) - 1) T/t``. Here each fault also waits for its repair, as a part of R.
    """
    work = total_steps * (costs.step + costs.beside)
    between = min(every_steps, total_steps) * (costs.step + costs.beside)
    restart = costs.restart + failures.repair
    wall = costs.start + _wall(failures.mtbf, restart, between + costs.save) * work / between
    return _expectation(every_steps, wall, failures, costs, total_steps)


def expected_on_notice(failures: Failures, costs: Costs, total_steps: int, every_steps: int) -> Expectation:
    """The same, where each fault has notice that is longer than a save: no step is lost, and a save is made for it. Only the
    restart may be struck again: ``M (e^(R/M) - 1)`` of it for each fault of the time in which steps are taken.
    """
    work = total_steps * (costs.step + costs.beside) + total_steps / every_steps * costs.save
    restart = failures.mtbf * math.expm1(min(_LARGEST, (costs.restart + failures.repair) / failures.mtbf))
    wall = costs.start + work * (1 + (restart + costs.save) / failures.mtbf)
    return _expectation(every_steps, wall, failures, costs, total_steps)


def best_every_steps(failures: Failures, costs: Costs, total_steps: int) -> int:
    """Steps between checkpoints at which the run is expected to end first.

    The minimum of ``expected``: work t with ``(1 - t/M) e^((t+d)/M) = 1``, found by halving; J. W. Young, "A first order
    approximation to the optimum checkpoint interval", Communications of the ACM 17 (1974), gives ``sqrt(2 d M)`` for d far below M,
    and Daly (2006) its next orders.
    """
    mtbf, save = failures.mtbf, costs.save
    low, high = 0.0, mtbf
    for _ in range(_MOST_HALVINGS):
        middle = (low + high) / 2
        if math.log1p(-middle / mtbf) + (middle + save) / mtbf > 0:
            low = middle
        else:
            high = middle
    best = low / (costs.step + costs.beside)
    around = {max(1, min(total_steps, count)) for count in (math.floor(best), math.ceil(best))}
    return min(around, key=lambda count: expected(failures, costs, total_steps, count).wall)


@dataclass(frozen=True)
class Forecast:
    """What is expected before a launch."""

    failures: Failures
    costs: Costs
    planned: Expectation
    """With the plan's cadence."""
    best: Expectation
    """With the best one."""
    on_notice: Expectation
    """With the plan's, where each fault has notice."""
    with_spares: Expectation
    """With the plan's, where nothing is waited for in the place of what was lost."""

    def lines(self) -> list[tuple[str, str]]:
        """Name and text, for a person."""
        costs, planned, best = self.costs, self.planned, self.best
        sooner = planned.wall - best.wall
        rows = [
            ("failures", self.failures.told),
            (
                "costs",
                f"a step {costs.step:.3g} s and {costs.beside:.3g} s beside it, a save {costs.save:.3g} s, a restart"
                f" {costs.restart:.3g} s, the start {costs.start:.3g} s ({costs.known_from})",
            ),
            (
                "expected",
                f"effective training time {_percent(planned)}, {planned.faults:.1f} faults in"
                f" {duration(planned.wall)}, with checkpoint.every_steps: {planned.every_steps}",
            ),
            (
                "best",
                f"checkpoint.every_steps: {best.every_steps}, {_percent(best)}"
                + (f", {duration(sooner)} sooner" if 1 <= sooner < math.inf else ""),
            ),
            ("notice", f"{_percent(self.on_notice)} where each fault has notice (recovery.on_notice: save)"),
        ]
        if self.failures.repair:
            rows.append(("spares", f"{_percent(self.with_spares)} where a spare node is at hand"))
        return rows


def forecast(failures: Failures, costs: Costs, total_steps: int, every_steps: int) -> Forecast:
    """All that is expected of a run with a plan's number of steps and cadence of checkpoints."""
    return Forecast(
        failures,
        costs,
        expected(failures, costs, total_steps, every_steps),
        expected(failures, costs, total_steps, best_every_steps(failures, costs, total_steps)),
        expected_on_notice(failures, costs, total_steps, every_steps),
        expected(replace(failures, repair=0.0), costs, total_steps, every_steps),
    )


def _percent(found: Expectation) -> str:
    return f"{found.effective:.1%}" if found.wall < math.inf else "no end to be expected"


_LARGEST = 700.0
"""Of an exponent; behind it a float ends."""


def _wall(mtbf: float, restart: float, between: float) -> float:
    """Seconds that one stretch of work with its save is expected to take."""
    exponent = (restart + between) / mtbf
    if exponent > _LARGEST:
        return math.inf
    return mtbf * math.exp(restart / mtbf) * math.expm1(between / mtbf)


def _expectation(
    every_steps: int, wall: float, failures: Failures, costs: Costs, total_steps: int
) -> Expectation:
    effective = total_steps * costs.step / wall
    return Expectation(every_steps, wall, effective, (wall - costs.start) / failures.mtbf)


def duration(seconds: float) -> str:
    """Two units at most: ``3d 18h``, ``6h``, ``95s``."""
    if seconds == math.inf:
        return "no time that ends"
    left = round(seconds)
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count and len(words) < 2:
            words.append(f"{count}{unit}")
    return " ".join(words) or f"{seconds:.2g}s"


def _pairs(text: str) -> dict[str, str]:
    known = ("mtbf", "mtbf_node", "nodes", "repair", *_OWN)
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or name not in known or name in found:
            raise SpecError(
                f"--failures {text}: {pair.strip()!r} is none of {', '.join(known)}, each once, with = and a value"
            )
        found[name] = value
    return found


def _seconds(given: dict[str, str], name: str) -> float:
    try:
        return parse_seconds(given[name])
    except ValueError as error:
        raise SpecError(f"--failures: {name}: {error}") from None


def _positive(given: dict[str, str], name: str) -> float:
    if (seconds := _seconds(given, name)) > 0:
        return seconds
    raise SpecError(f"--failures: {name}: no time is between two faults; leave --failures out or give one")


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise SpecError(f"--failures: nodes: {text!r} is no number of nodes")
