"""How several sources share a global batch."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import DataError


def mix_quotas(weights: Sequence[float], batch: int) -> list[int]:
    """How many samples of every global batch each source gives: largest remainders, so they add up to the batch.

    Raises:
        DataError: a source would give none.
    """
    exact = [weight / sum(weights) * batch for weight in weights]
    quotas = [int(share) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (quotas[i] - exact[i], i))
    for index in by_rest[: batch - sum(quotas)]:
        quotas[index] += 1
    if 0 in quotas:
        poor = quotas.index(0)
        raise DataError(
            f"data.train: source {poor + 1} of {len(weights)} has a share of {weights[poor] / sum(weights):.2%}, which"
            f" is less than one sample of a global batch of {batch}; raise its weight or training.global_batch_size"
        )
    return quotas
