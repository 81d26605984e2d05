"""Surroundings of the loop that keep what they are told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.checkpoint import Checkpoints, Ranking
from orchestrator.models.base import Batch
from orchestrator.planning.patience import Patience
from orchestrator.strategies.base import Engine
from orchestrator.telemetry.spikes import Spike, SpikeWatch
from orchestrator.testing.calls import Calls


@dataclass(frozen=True)
class Logged:
    """One call of ``log``."""

    step: int
    values: dict[str, float]
    """Metrics by name."""
    seconds: dict[str, float]
    """Wall time by part; empty where an evaluation was logged."""


class RecordingSurroundings:
    """The loop's ``Surroundings``: notes each call, writes checkpoints where it was given some, stops where told.

    Attributes:
        calls: every call, with its arguments.
        logged: what ``log`` was given.

    """

    def __init__(
        self,
        *,
        stop_at: int | None = None,
        evaluation: Sequence[Batch] = (),
        again: Callable[[int], Sequence[Batch]] | None = None,
        checkpoints: Checkpoints | None = None,
        engine: Engine | None = None,
        ranking: Ranking | None = None,
        patience: Patience | None = None,
        left_out: Collection[int] = (),
        spikes: SpikeWatch | None = None,
        calls: Calls | None = None,
    ) -> None:
        """
        Args:
            stop_at: the step after which a stop is asked for. Default: none is.
            ranking: which metrics are the best so far. Default: none are.
            patience: what says that training is enough. Default: it never is.
            left_out: steps that are not trained on. Default: none.
            spikes: what looks for them. Default: nobody does.
            evaluation: this rank's batches of the evaluation set.
            again: this rank's micro-batches of a step, for the loop to look at once more. Default: none.
            checkpoints: where ``save`` writes the state of ``engine``. Default: it writes nothing.
            engine: what is saved; belongs to ``checkpoints``.
            calls: a list to note calls in, shared with other fakes.

        """
        if (checkpoints is None) != (engine is None):
            raise ValueError("give both checkpoints and engine, or neither")
        self.left_out, self.spikes = left_out, spikes or SpikeWatch(None)
        self.calls: Calls = [] if calls is None else calls
        self.logged: list[Logged] = []
        self._stop_at, self._evaluation = stop_at, tuple(evaluation)
        self._checkpoints, self._engine = checkpoints, engine
        self._ranking, self._again, self._patience = ranking, again, patience

    def metric(self, name: str) -> dict[int, float]:
        """A metric's values by step, as far as it was logged."""
        return {logged.step: logged.values[name] for logged in self.logged if name in logged.values}

    def metrics(self, prefix: str) -> dict[int, list[float]]:
        """Values by step of all metrics whose names begin so, in the names' order: ``train/loss`` gives each phase's."""
        values: dict[int, list[float]] = {}
        for logged in self.logged:
            for name in sorted(logged.values):
                if name.startswith(prefix):
                    values.setdefault(logged.step, []).append(logged.values[name])
        return values

    def steps(self, call: str) -> list[int]:
        """The steps at which ``save``, ``show_samples``, ``stop_requested`` or ``log`` was called."""
        return [arguments[0] for name, *arguments in self.calls if name == call]

    def evaluation(self) -> Iterator[Batch]:
        """The batches that were given, each time anew."""
        self.calls.append(("evaluation",))
        return iter(self._evaluation)

    def spiked(self, spike: Spike) -> None:
        """Note it."""
        self.calls.append(("spiked", spike))

    def class_names(self) -> Sequence[str]:
        """None."""
        return ()

    def token_bytes(self) -> None:
        """None."""

    def spell(self) -> None:
        """None."""

    def enough(self, measured: dict[str, float]) -> str:
        """As the patience that was given says."""
        if measured and self._patience is not None:
            self._patience.note(measured)
        return "" if self._patience is None else self._patience.end()

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether the ranking admits them."""
        return self._ranking is not None and self._ranking.admits(metrics)

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """Write a checkpoint in the background, where there are checkpoints."""
        self.calls.append(("save", step, metrics))
        if self._ranking is not None:
            self._ranking.add(step, metrics)
        if self._checkpoints is not None and self._engine is not None:
            meta = {"scalars": self._engine.scalars(), "metrics": metrics}
            self._checkpoints.save(step, self._engine.state(), meta, asynchronous=True)

    def before_update(self) -> None:
        """Wait for the copy that the last save makes."""
        self.calls.append(("before_update",))
        if self._checkpoints is not None:
            self._checkpoints.wait_until_copied()

    def show_samples(self, step: int) -> None:
        """Note the step; nothing is drawn."""
        self.calls.append(("show_samples", step))

    def show_confusion(self, step: int, matrix: np.ndarray[Any, Any]) -> None:
        """Note the step and the matrix."""
        self.calls.append(("show_confusion", step, matrix))

    def stop_requested(self, step: int) -> bool:
        """Whether ``stop_at`` is reached."""
        self.calls.append(("stop_requested", step))
        return self._stop_at is not None and step >= self._stop_at

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Keep metrics and seconds."""
        self.calls.append(("log", step))
        self.logged.append(Logged(step, values, seconds))

    def again(self, step: int) -> Sequence[Batch]:
        """The micro-batches that were given for it."""
        self.calls.append(("again", step))
        return () if self._again is None else self._again(step)

    def place(self, sample: int) -> str:
        """The sample's number."""
        return f"sample {sample}"
