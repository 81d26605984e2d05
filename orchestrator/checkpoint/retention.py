"""Which checkpoints stay, and which is the best."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.checkpoint.find import committed, folders, is_committed
from orchestrator.checkpoint.format import COMMITTED, Checkpoint, folder_name
from orchestrator.storage import Store

log = logging.getLogger(__name__)


class Ranking:
    """The best values of a metric that checkpoints have so far."""

    def __init__(self, *, best: int, metric: str, mode: str, checkpoints: Iterable[Checkpoint] = ()) -> None:
        """
        Args:
            best: how many values are looked at.
            metric: name of the metric.
            mode: ``min`` or ``max``.
            checkpoints: those there are.

        """
        self._best, self._metric, self._mode = best, metric, mode
        self._ranked: list[tuple[float, int]] = []
        for checkpoint in checkpoints:
            self.add(checkpoint.step, metrics_of(checkpoint))

    def admits(self, metrics: Mapping[str, Any]) -> bool:
        """Whether these are better than one of the best so far, or those are fewer than they may be."""
        cost = cost_of(metrics, self._metric, self._mode)
        if self._best == 0 or cost == math.inf:
            return False
        return len(self._ranked) < self._best or cost < self._ranked[-1][0]

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """There is a checkpoint of this step with these metrics."""
        cost = cost_of(metrics, self._metric, self._mode)
        if cost < math.inf:
            ranked = {(cost, step), *self._ranked}
            self._ranked = sorted(ranked, key=lambda entry: (entry[0], -entry[1]))[: self._best]

    def first(self) -> tuple[int, float] | None:
        """Step and value of the best so far, of equals the newer; None where none has the metric."""
        if not self._ranked:
            return None
        cost, step = self._ranked[0]
        return step, cost if self._mode == "min" else -cost


def cost_of(metrics: Mapping[str, Any], metric: str, mode: str) -> float:
    """The metric's value, made so that less is better; infinite where it was not measured or is no finite number."""
    value = metrics.get(metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return math.inf
    return value if mode == "min" else -value


def metrics_of(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What was measured at the checkpoint's step."""
    metrics: Mapping[str, Any] = checkpoint.meta.get("metrics") or {}
    return metrics


def by_cost(checkpoints: Sequence[Checkpoint], metric: str, mode: str) -> list[Checkpoint]:
    """Those that have the metric, the best first. Of equals the one that comes first is better."""

    def cost(checkpoint: Checkpoint) -> float:
        return cost_of(metrics_of(checkpoint), metric, mode)

    return sorted((c for c in checkpoints if cost(c) < math.inf), key=cost)


def kept(
    checkpoints: Sequence[Checkpoint], *, last: int, best: int, metric: str, mode: str
) -> list[Checkpoint]:
    """Those of ``checkpoints`` (newest first) to keep: the ``last`` newest and the ``best`` by ``metric``.

    The metric is looked up in ``meta["metrics"]``; a checkpoint without it, or where it is not finite, is never
    among the best. Of equals the newer is better.
    """
    chosen = [*checkpoints[:last], *by_cost(checkpoints, metric, mode)[:best]]
    return [checkpoint for checkpoint in checkpoints if checkpoint in chosen]


def prune(store: Store, attempt: int, *, last: int, best: int, metric: str, mode: str) -> None:
    """Remove committed checkpoints that are not ``kept``, and what earlier attempts left unfinished.

    The commit marker goes first, so that a checkpoint half removed is none. What can't be removed is logged and
    stays. The newest committed one always stays.
    """
    checkpoints = committed(store)
    stay = kept(checkpoints, last=max(last, 1), best=best, metric=metric, mode=mode)
    surplus = [(c.step, c.attempt) for c in checkpoints if c not in stay]
    unfinished = [f for f in folders(store) if f[1] < attempt and not is_committed(store, *f)]
    for step, of_attempt in (*surplus, *unfinished):
        folder = folder_name(step, of_attempt)
        try:
            remove(store, folder)
        except OSError as error:
            log.warning("checkpoint %s could not be removed: %s", folder, error)


def all_but_the_best(store: Store) -> list[str]:
    """Folders of an ended run's checkpoints but the best, by what the newest says that they are kept by; the newest is
    kept where none has a finite value of that.
    """
    checkpoints = committed(store)
    if not checkpoints:
        return []
    by = checkpoints[0].meta["best_by"]
    best = (*by_cost(checkpoints, by["metric"], by["mode"]), checkpoints[0])[0]
    stays = folder_name(best.step, best.attempt)
    return [name for name in (folder_name(*found) for found in folders(store)) if name != stays]


def remove(store: Store, folder: str) -> None:
    """Remove a checkpoint. Raises OSError where that fails."""
    store.remove(f"{folder}/{COMMITTED}")
    store.remove(folder)
