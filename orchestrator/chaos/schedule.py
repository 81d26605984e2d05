"""Which fault comes when: a pure function of a seed and of the shape of the job."""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import SpecError
from orchestrator.planning.plan import Plan
from orchestrator.section import Section

Kind = Literal["kill", "hang", "notice", "slow", "disk", "mlflow", "resize"]
Phase = Literal["batch", "update", "log", "save", "evaluate"]

WAYS: dict[Kind, tuple[str, ...]] = {
    "kill": ("SIGKILL",),
    "hang": ("SIGSTOP", "asleep"),
    "notice": ("SIGTERM", "file"),
    "slow": ("pulses",),
    "disk": ("no file grows",),
    "mlflow": ("503", "gone", "silent"),
    "resize": ("fewer", "more"),
}
"""Each kind of fault, and how it comes."""
_PHASES: dict[Kind, tuple[Phase, ...]] = {
    "kill": ("batch", "update", "log", "save", "evaluate"),
    # a hang in a save or an evaluation is one only after ten times the timeout
    "hang": ("batch", "update"),
    "notice": ("batch", "update", "log", "save", "evaluate"),
    "slow": ("batch",),
    "disk": ("batch", "log", "save"),
    "mlflow": ("log",),
    "resize": ("batch", "update", "log", "save", "evaluate"),
}
_SECONDS: dict[Kind, tuple[float, float]] = {"slow": (1.0, 4.0), "disk": (1.0, 10.0), "mlflow": (1.0, 8.0)}
"""How long those faults last that pass by themselves."""
FIRST_STEP = 3
"""None comes earlier: what is a hang is told by the steps before it."""


class Fault(Section):
    """One fault."""

    number: int
    """From 1 on, over all runs."""
    run: int
    """The run it comes in, from 1 on."""
    kind: Kind
    """What happens."""
    way: str
    """How: one of ``WAYS``."""
    rank: int
    """The worker it happens to."""
    step: int
    """When: in this step, or in the next that has the phase."""
    phase: Phase
    """Where in the step: with its batch at hand, before its update, after its log, as its save begins, in its evaluation."""
    seconds: float = 0.0
    """How long it lasts, where it passes by itself."""
    workers: int = 0
    """For how many workers there is room from then on, where that changes."""

    @property
    def ends_attempt(self) -> bool:
        """Whether the workers start again because of it, if the run does not end before."""
        return self.kind in ("kill", "hang", "notice", "disk", "resize")

    @property
    def sentence(self) -> str:
        """For a person."""
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        if self.kind == "resize":
            where = f"in step {self.step} of worker {self.rank}, {self.phase}"
            return f"resize: room for {self.workers} workers, {self.way} than before, {where}"
        return f"{self.kind} ({self.way}) of worker {self.rank} in step {self.step}, {self.phase}{lasts}"


@dataclass(frozen=True)
class Shape:
    """What a schedule needs to know of a job."""

    workers: int
    total_steps: int
    checkpoint_every: int
    evaluate_every: int
    """0: never."""
    sizes: tuple[int, ...] = ()
    """That the group may have, the smallest first; none where its size is fixed."""

    @classmethod
    def of(cls, plan: Plan) -> Shape:
        """Of a plan."""
        sizes = tuple(size.workers for size in plan.sizes)
        return cls(plan.world_size, plan.total_steps, plan.checkpoint_every, plan.evaluate_every, sizes)

    def steps_with(self, phase: Phase) -> Sequence[int]:
        """Steps in which a fault may come in this phase: none of the first, and a step is left to go on with."""
        every = {"save": self.checkpoint_every, "evaluate": self.evaluate_every}.get(phase, 1)
        return [step for step in range(FIRST_STEP, self.total_steps) if every and step % every == 0]


def kinds_of(text: str) -> list[Kind]:
    """``kill,hang`` as kinds, each once. Raises SpecError."""
    found: list[Kind] = []
    for word in (part.strip() for part in text.split(",")):
        known = next((kind for kind in WAYS if kind == word), None)
        if known is None:
            near = difflib.get_close_matches(word, WAYS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise SpecError(f"--faults: {word!r} is no fault of {', '.join(WAYS)}{meant}")
        if known not in found:
            found.append(known)
    return found


def schedule_of(
    shape: Shape, kinds: Sequence[Kind], *, count: int, per_run: int = 1, seed: int
) -> list[Fault]:
    """``count`` faults, ``per_run`` of them in each run in the order of their steps. A fault of a run does not depend on how
    many runs there are.

    Raises:
        SpecError: the job is too short for a fault to hit, or the count is none.

    """
    if count < 1 or per_run < 1:
        raise SpecError(f"--count {count}, --per-run {per_run}: a schedule has at least one fault")
    if shape.total_steps <= FIRST_STEP:
        raise SpecError(
            f"training.max_steps: the job takes {shape.total_steps} steps; a fault comes in step {FIRST_STEP} at the earliest, and"
            f" a step must be left to go on with: take {FIRST_STEP + 1} or more"
        )
    faults: list[Fault] = []
    for run in range(1, -(-count // per_run) + 1):
        numbers = range(len(faults) + 1, min(count, len(faults) + per_run) + 1)
        drawn = sorted((_drawn(shape, kinds, number, seed) for number in numbers), key=lambda one: one[3])
        of_run = [
            Fault(number=n, run=run, kind=kind, way=way, phase=phase, step=step, rank=rank, seconds=seconds)
            for n, (kind, way, phase, step, rank, seconds) in zip(numbers, drawn, strict=True)
        ]
        faults += _in_turn(of_run, shape.sizes, seed)
    return faults


def _in_turn(faults: Sequence[Fault], sizes: Sequence[int], seed: int) -> list[Fault]:
    """A run's faults with the room that each leaves: a group that has become smaller can only grow, and one that has grown shrink."""
    found, before = [], ""
    for fault in faults:
        if fault.kind == "resize":
            way = {"": fault.way, "more": "fewer", "fewer": "more"}[before]
            fewer = random.Random(f"{seed}/{fault.number}/room").choice(sizes[:-1])
            room = fewer if way == "fewer" else sizes[-1]
            fault, before = fault.model_copy(update={"way": way, "workers": room}), way
        found.append(fault)
    return found


def room_at_start(faults: Sequence[Fault], sizes: Sequence[int]) -> int:
    """For how many workers a run of these faults has room at first: for the fewest where the first change is to more."""
    ways = [fault.way for fault in faults if fault.kind == "resize"]
    return sizes[0] if ways[:1] == ["more"] else sizes[-1]


def _drawn(
    shape: Shape, kinds: Sequence[Kind], number: int, seed: int
) -> tuple[Kind, str, Phase, int, int, float]:
    choose = random.Random(f"{seed}/{number}")
    kind, way = _kind_and_way(kinds, number, seed)
    phase = choose.choice([phase for phase in _PHASES[kind] if shape.steps_with(phase)])
    seconds = round(choose.uniform(*_SECONDS[kind]), 1) if kind in _SECONDS else 0.0
    return kind, way, phase, choose.choice(shape.steps_with(phase)), choose.randrange(shape.workers), seconds


def _kind_and_way(kinds: Sequence[Kind], number: int, seed: int) -> tuple[Kind, str]:
    """All kinds before one comes again, and each time the next of its ways."""
    turn, place = divmod(number - 1, len(kinds))
    order = list(kinds)
    random.Random(f"{seed}/turn {turn}").shuffle(order)
    kind = order[place]
    return kind, WAYS[kind][(turn + seed) % len(WAYS[kind])]
