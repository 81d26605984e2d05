"""Small modules and objectives for the contract of engines, trained by the loop. Everything here is importable by ranks."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator import loop, strategies
from orchestrator.checkpoint import Checkpoints, checkpoint_at, open_reader
from orchestrator.control import Peers
from orchestrator.errors import InfrastructureError, NotANumberError
from orchestrator.models.base import Batch, Modules, Sums
from orchestrator.models.deferred import build_deferred
from orchestrator.models.objectives.common import OnePhase
from orchestrator.planning.plan import Plan
from orchestrator.strategies.base import Engine
from orchestrator.strategies.optimizers import local
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

GLOBAL_BATCH = 12


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ToyModel(nn.Module):
    """Rows that three ranks can't share evenly, tied weights, a frozen parameter and a buffer."""

    block_classes = (Block,)

    def __init__(self, width: int = 10, depth: int = 2, outputs: int = 7) -> None:
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)
        self.frozen = nn.Parameter(torch.linspace(0, 1, width), requires_grad=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        hidden = self.embed(x) + self.frozen
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


class Leveled(ToyModel):
    """Has a running number of its own."""

    def __init__(self, width: int = 10) -> None:
        super().__init__(width)
        self.register_buffer("level", torch.zeros(3))
        self.register_buffer("closed", torch.full((2,), -torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.level = 0.5 * self.level + torch.arange(3)
        return super().forward(x) + self.level.sum()


class Critic(nn.Module):
    block_classes = (Block,)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, 10)
        self.layer = Block(10)
        self.head = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))[:, 0]


class Classify(OnePhase):
    units_per_sample = 1

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        logits = modules["model"](batch["x"])
        loss = F.cross_entropy(logits, batch["y"], reduction="sum")
        return Sums(loss, torch.tensor(len(batch["y"])), {})


class NanOnRankOne(Classify):
    """Its loss is no number on one rank."""

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        sums = super().loss(phase, modules, batch)
        return Sums(sums.loss * math.nan, sums.count, {}) if dist.get_rank() == 1 else sums


class OneBitOnRankOne(Classify):
    """After a step, one bit of one element is another on one rank."""

    def after_step(self, phase: str, modules: Mapping[str, nn.Module]) -> None:
        if dist.get_rank() == 1:
            local(modules["model"].get_parameter("layers.1.up.bias").data).view(torch.int32)[3] ^= 1


class Adversarial(OnePhase):
    """A Wasserstein GAN with gradient penalty: several forwards and a double backward in one phase."""

    phases = ("critic", "model")
    units_per_sample = 1

    def __init__(self, penalty: bool = True) -> None:
        self.penalty = penalty

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        critic, generator = modules["critic"], modules["model"]
        count = torch.tensor(len(batch["x"]))
        if phase == "model":
            return Sums(-critic(generator(batch["x"])).sum(), count, {})
        with torch.no_grad():
            fake = generator(batch["x"])
        real = F.one_hot(batch["y"], 7).float()
        loss = critic(fake).sum() - critic(real).sum()
        if self.penalty:
            between = (0.3 * real + 0.7 * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            loss = loss + 10 * ((slope.norm(dim=1) - 1) ** 2).sum()
        else:
            loss = F.softplus(critic(fake)).sum() + F.softplus(-critic(real)).sum()
        return Sums(loss, count, {})


def toy_modules(kind: str, width: int = 10) -> Modules:
    torch.manual_seed(0)
    model = Leveled(width) if kind == "leveled" else ToyModel(width)
    return {"model": model, "critic": Critic()} if kind in ("gan", "wgan") else {"model": model}


def toy_objective(kind: str) -> Any:
    return {
        "classify": Classify,
        "leveled": Classify,
        "nan": NanOnRankOne,
        "one-bit": OneBitOnRankOne,
        "wgan": Adversarial,
        "gan": lambda: Adversarial(penalty=False),
    }[kind]()


def toy_plan(
    world_size: int, strategy: Mapping[str, Any], *, micro_batch_size: int = 2, **training: Any
) -> Plan:
    """Long enough that every toy run stops before its end; the learning rate is another in each step."""
    return small_plan(
        world_size,
        strategy=strategy,
        training={
            "max_steps": 100,
            "global_batch_size": GLOBAL_BATCH,
            "clip_grad_norm": 1.0,
            "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1},
            "schedule": {"kind": "linear", "warmup_steps": 2, "final_ratio": 0.0},
            **training,
        },
        micro_batch_size=micro_batch_size,
        parameters=2000,
    )


def global_batch(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(GLOBAL_BATCH, 5, generator=generator)
    return {"x": x, "y": (x.sum(1).abs() * 2).long() % 7}


@dataclass
class Run:
    """What one rank has to say after a run."""

    losses: list[float]
    """Of each step and phase."""
    norms: list[float]
    ranges: list[tuple[str, str, tuple[int, ...], int, Tensor]]
    scalars: dict[str, float]


def run_of(engine: Engine, around: RecordingSurroundings) -> Run:
    """What an engine holds and what was logged of its training."""
    losses, norms = (
        [value for values in around.metrics(prefix).values() for value in values]
        for prefix in ("train/loss", "train/grad_norm")
    )
    ranges = [(r.kind, r.name, r.shape, r.start, r.values.clone()) for r in engine.state()]
    return Run(losses, norms, ranges, engine.scalars())


@contextlib.contextmanager
def checkpoints_in(folder: str | None) -> Iterator[Checkpoints | None]:
    """Where this rank saves; nowhere without a folder."""
    if folder is None:
        yield None
        return
    peers = Peers()
    checkpoints = Checkpoints(
        folder, attempt=1, rank=peers.rank, world_size=peers.world_size, group=peers.group
    )
    yield checkpoints
    checkpoints.wait()
    checkpoints.close()


def train(
    plan: Plan,
    kind: str = "classify",
    *,
    steps: int = 20,
    start: int = 0,
    resume: str | None = None,
    save: str | None = None,
    device: str = "cpu",
    width: int = 10,
) -> Run:
    """Train a toy on this rank; go on from ``resume``, and save the end in ``save``."""
    objective = toy_objective(kind)
    engine = strategies.prepare(plan, toy_modules(kind, width), objective, torch.device(device))
    if resume is not None:
        checkpoint = checkpoint_at(resume)
        engine.load(open_reader(checkpoint), checkpoint.meta["scalars"])
    with checkpoints_in(save) as checkpoints:
        around = RecordingSurroundings(
            stop_at=start + steps,
            evaluation=[{name: tensor.to(device) for name, tensor in global_batch(0).items()}],
            checkpoints=checkpoints,
            engine=checkpoints and engine,
        )
        if steps:
            batches = map(global_batch, itertools.count(start))
            loop.train(plan, engine, objective, steps_of(batches, plan, device=device), around, start)
        run = run_of(engine, around)
    engine.close()
    return run


def assembled(runs: Sequence[Run]) -> dict[tuple[str, str], Tensor]:
    """Whole tensors from all ranks' ranges, every element exactly once."""
    whole: dict[tuple[str, str], Tensor] = {}
    covered: dict[tuple[str, str], Tensor] = {}
    for run in runs:
        for kind, name, shape, start, values in run.ranges:
            count = torch.Size(shape).numel()
            flat = whole.setdefault((kind, name), torch.zeros(count, dtype=values.dtype))
            seen = covered.setdefault((kind, name), torch.zeros(count, dtype=torch.int64))
            flat[start : start + len(values)] = values
            seen[start : start + len(values)] += 1
    for key, seen in covered.items():
        assert bool((seen == 1).all()), key
    return whole


def train_steps(plan: Plan, kind: str, steps: int) -> Run:
    return train(plan, kind, steps=steps)


def _live_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and not thing.is_meta:
            local = thing.to_local() if hasattr(thing, "to_local") else thing
            storages[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
    return sum(storages.values())


def second_copies(plan: Plan) -> tuple[int, int]:
    """Elements of a weight that this rank holds a second time once a forward has passed, and all that it has."""
    modules = toy_modules("classify")
    engine = strategies.prepare(plan, modules, toy_objective("classify"), torch.device("cpu"))
    with torch.no_grad():
        engine.modules["model"](global_batch(0)["x"])
    weight: Any = engine.modules["model"].get_parameter("layers.1.up.weight")
    held = weight.ds_secondary_tensor.numel()
    engine.close()
    return held, weight.ds_numel


def gathered_after_forward(plan: Plan) -> tuple[bool, bool]:
    """Whether a weight outside of blocks, and one of a block, are whole on this rank between forward and backward."""
    engine = strategies.prepare(plan, toy_modules("classify"), toy_objective("classify"), torch.device("cpu"))
    engine.modules["model"](global_batch(0)["x"])
    held = [
        not hasattr(engine.modules["model"].get_parameter(name), "to_local")
        for name in ("head.weight", "layers.1.up.weight")
    ]
    engine.close()
    return held[0], held[1]


def most_while_placed(plan: Plan) -> tuple[int, int, int]:
    """Bytes of parameters on this rank at the most while an engine gives them memory; of all, and of the largest part."""
    depth = 6
    gc.freeze()  # else each look goes through all that imports have made
    modules, values = build_deferred(lambda: {"model": ToyModel(64, depth=depth)}, 0)
    (model,) = modules.values()
    most, of, before = 0, values.of, _live_bytes()

    def watched(tensor: Tensor) -> Tensor:
        nonlocal most
        value = of(tensor)
        most = max(most, _live_bytes() - before)
        return value

    values.of = watched  # type: ignore[method-assign]
    whole = sum(parameter.numel() for parameter in model.parameters())
    block = sum(parameter.numel() for parameter in model.layers[0].parameters())
    engine = strategies.prepare(plan, modules, toy_objective("classify"), torch.device("cpu"), values)
    engine.close()
    gc.unfreeze()
    return most, 4 * whole, 4 * max(block, whole - depth * block)


def train_and_save(plan: Plan, kind: str, steps: int, root: str) -> Run:
    return train(plan, kind, steps=steps, save=root)


def resume(plan: Plan, kind: str, path: str, start: int, steps: int) -> Run:
    return train(plan, kind, start=start, steps=steps, resume=path)


def refusal_of_replicas(plan: Plan) -> str:
    """What the loop says where one bit of one element on rank 1 is another."""
    try:
        train(plan, "one-bit", steps=1)
    except InfrastructureError as error:
        return str(error)
    return "nothing"


def step_on_nan(plan: Plan) -> tuple[str, Run, Run]:
    """What the loop says of a gradient that is no number on rank 1 only; the parameters before and after the step."""
    objective = toy_objective("nan")
    engine = strategies.prepare(plan, toy_modules("nan"), objective, torch.device("cpu"))

    def parameters() -> Run:
        ranges = [(r.kind, r.name, r.shape, r.start, r.values.clone()) for r in engine.state()]
        return Run([], [], [one for one in ranges if one[0] in ("parameter", "ema")], engine.scalars())

    before, said = parameters(), "nothing"
    try:
        steps = steps_of([global_batch(0)], plan)
        loop.train(plan, engine, objective, steps, RecordingSurroundings(stop_at=1), 0)
    except NotANumberError as error:
        said = str(error)
    after = parameters()
    engine.close()
    return said, before, after
