"""Which checkpoints stay."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from orchestrator.checkpoint.find import committed, folders, is_committed
from orchestrator.checkpoint.format import COMMITTED, Checkpoint, folder_name
from orchestrator.storage import Store

log = logging.getLogger(__name__)


def kept(
    checkpoints: Sequence[Checkpoint], *, last: int, best: int, metric: str, mode: str
) -> list[Checkpoint]:
    """Those of ``checkpoints`` (newest first) to keep: the ``last`` newest and the ``best`` by ``metric``.

    The metric is looked up in ``meta["metrics"]``; a checkpoint without it, or where it is not finite, is never
    among the best. Of equals the newer is better.
    """
    sign = 1 if mode == "min" else -1

    def value(checkpoint: Checkpoint) -> float:
        metrics = checkpoint.meta.get("metrics") or {}
        number = metrics.get(metric)
        return sign * number if isinstance(number, int | float) and math.isfinite(number) else math.inf

    ranked = sorted((c for c in checkpoints if value(c) < math.inf), key=value)
    chosen = [*checkpoints[:last], *ranked[:best]]
    return [checkpoint for checkpoint in checkpoints if checkpoint in chosen]


def prune(store: Store, attempt: int, *, last: int, best: int, metric: str, mode: str) -> None:
    """Remove committed checkpoints that are not ``kept``, and what earlier attempts left unfinished.

    The commit marker goes first, so that a checkpoint half removed is none. What can't be removed is logged and
    stays. The newest committed one always stays.
    """
    checkpoints = committed(store)
    stay = {
        (c.step, c.attempt) for c in kept(checkpoints, last=max(last, 1), best=best, metric=metric, mode=mode)
    }
    surplus = [(c.step, c.attempt) for c in checkpoints if (c.step, c.attempt) not in stay]
    unfinished = [f for f in folders(store) if f[1] < attempt and not is_committed(store, *f)]
    for step, of_attempt in (*surplus, *unfinished):
        folder = folder_name(step, of_attempt)
        try:
            store.remove(f"{folder}/{COMMITTED}")
            store.remove(folder)
        except OSError as error:
            log.warning("checkpoint %s could not be removed: %s", folder, error)
