"""Bytes that a worker sends in a step. Imports no torch.

Counted as rings send them (Patarasu and Yuan 2009): of a tensor that is gathered by, or scattered over, n workers each sends
(n - 1) / n, of one that is reduced to all twice as much. Volumes are ZeRO's (Rajbhandari et al. 2020, arXiv:1910.02054,
section 7), with blocks gathered once for the forward and once for the backward; what stays gathered meanwhile (outside of
blocks, and small) is counted as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.planning.plan import Plan
from orchestrator.spec.strategy import DdpStrategy, FsdpStrategy, ZeroStrategy


class Traffic(NamedTuple):
    """Bytes that each worker sends in a step."""

    within: int
    """To others of its node."""
    between: int
    """To other nodes."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.within + self.between


@dataclass(frozen=True)
class _Exchange:
    """A gather or a scatter by a ring of workers."""

    size: int
    """Bytes of the whole tensor."""
    workers: int
    stride: int = 1
    """From one of them to the next, in ranks."""

    @property
    def sent(self) -> float:
        return self.size * (self.workers - 1) / self.workers

    def leaving(self, node: int) -> float:
        """The share that goes to other nodes, of ``node`` workers each: of those side by side on one only the last sends
        to the next node.
        """
        side_by_side = max(1, node // self.stride)
        return 0.0 if self.workers <= side_by_side else 1 / side_by_side


def traffic(plan: Plan, *, node: int) -> Traffic:
    """What each worker of a plan sends in a step.

    Args:
        plan: Whose ranks follow each other node by node.
        node: Workers of a node.

    """
    exchanges = list(_exchanges(plan))
    between = sum(one.sent * one.leaving(node) for one in exchanges)
    return Traffic(int(sum(one.sent for one in exchanges) - between), int(between))


def _exchanges(plan: Plan) -> Iterator[_Exchange]:
    strategy, workers, micros = plan.job.strategy, plan.world_size, plan.accumulation_steps
    bytes_each = 4 if plan.job.training.precision == "fp32" else 2
    if strategy.kind == "ddp":
        yield from _of_ddp(strategy, workers, plan.trainable_parameters)
    elif strategy.kind == "fsdp":
        yield from (
            _of_fsdp(strategy, workers, bytes_each * plan.parameters, plan.trainable_parameters) * micros
        )
    elif strategy.stage == 3:
        yield from [_Exchange(bytes_each * plan.trainable_parameters, workers)] * micros
        yield from _gathers_of_zero3(strategy, workers, bytes_each * plan.parameters, micros)
    else:
        reductions = 1 if strategy.stage == 1 else micros
        yield from [_Exchange(bytes_each * plan.trainable_parameters, workers)] * (2 * reductions)
        yield _Exchange(bytes_each * plan.parameters, workers)


def _of_ddp(strategy: DdpStrategy, workers: int, trainable: int) -> list[_Exchange]:
    return [_Exchange(_REDUCED[strategy.reduce_dtype] * trainable, workers)] * 2


def _of_fsdp(strategy: FsdpStrategy, workers: int, computed: int, trainable: int) -> list[_Exchange]:
    sharers = _number(strategy, workers)
    gradients = _REDUCED[strategy.reduce_dtype] * trainable
    gathers = [_Exchange(computed, sharers)] * (2 if strategy.reshard_after_forward else 1)
    copies = [_Exchange(gradients // sharers, workers // sharers, stride=sharers)] * 2
    return [*gathers, _Exchange(gradients, sharers), *copies]


def _gathers_of_zero3(strategy: ZeroStrategy, workers: int, computed: int, micros: int) -> list[_Exchange]:
    """Without the quantization of weights. The second copy of a group lasts from the first forward to the update."""
    again = _Exchange(computed, _number(strategy, workers))
    return [_Exchange(computed, workers)] + [again] * (2 * micros - 1)


_REDUCED = {"fp32": 4, "bf16": 2}
"""Bytes of a gradient as it is exchanged."""


def _number(strategy: FsdpStrategy | ZeroStrategy, workers: int) -> int:
    assert strategy.shard_group != "node", "a plan holds the number"
    return strategy.shard_group or workers
