"""How training is distributed: one Engine for each kind of strategy, behind ``prepare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.registry import load

if TYPE_CHECKING:
    import torch

    from orchestrator.models.base import Modules, Objective
    from orchestrator.models.deferred import FirstValues
    from orchestrator.planning.plan import Plan
    from orchestrator.strategies.base import Engine

STRATEGIES: dict[str, str] = {
    "ddp": "orchestrator.strategies.ddp:DdpEngine",
    "fsdp": "orchestrator.strategies.fsdp:FsdpEngine",
    "zero": "orchestrator.strategies.zero:ZeroEngine",
}
"""Kind of strategy -> the class of its engine, imported on use."""


def prepare(
    plan: Plan,
    modules: Modules,
    objective: Objective,
    device: torch.device,
    values: FirstValues | None = None,
) -> Engine:
    """Distribute the modules as the plan says. Collective: every rank calls it with equally built modules.

    Modules from ``build_deferred`` come with their ``values``: strategies that shard parameters then hold no more than
    a share and one block of them at any time.

    Works without torch.distributed too: then there is one worker. The modules are changed in place (moved to
    ``device``, sharded) and belong to the engine from here on. Raises SpecError where the strategy can't do
    what the job asks.
    """
    from orchestrator.strategies.materialize import release_freed_memory

    kind = load(STRATEGIES, plan.job.strategy.kind, "strategy")
    engine: Engine = kind(plan, modules, objective, device, values)
    release_freed_memory()
    return engine
