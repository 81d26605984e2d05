"""Small modules, objectives and a training run for the contract of engines. Everything here is importable by ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator import strategies
from orchestrator.checkpoint import Checkpoints, checkpoint_at, open_reader
from orchestrator.models.base import Batch, Modules, Sums
from orchestrator.planning.plan import MemoryEstimate, Plan, ResolvedJob

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

    blocks = (Block,)

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


class Critic(nn.Module):
    blocks = (Block,)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, 10)
        self.layer = Block(10)
        self.head = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))[:, 0]


class Classify:
    phases = ("model",)
    units_per_sample = 1

    def trains(self, phase: str) -> str:
        return phase

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        logits = modules["model"](batch["x"])
        loss = F.cross_entropy(logits, batch["y"], reduction="sum")
        return Sums(loss, torch.tensor(len(batch["y"])), {})


class Adversarial:
    """A Wasserstein GAN with gradient penalty: several forwards and a double backward in one phase."""

    phases = ("critic", "model")
    units_per_sample = 1

    def __init__(self, penalty: bool = True) -> None:
        self.penalty = penalty

    def trains(self, phase: str) -> str:
        return phase

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
    model = ToyModel(width)
    return {"model": model} if kind == "classify" else {"model": model, "critic": Critic()}


def toy_objective(kind: str) -> Any:
    return {"classify": Classify, "wgan": Adversarial, "gan": lambda: Adversarial(penalty=False)}[kind]()


def toy_plan(world_size: int, strategy: Mapping[str, Any], **training: Any) -> Plan:
    training = {
        "max_steps": 1000,
        "global_batch_size": GLOBAL_BATCH,
        "micro_batch_size": 2,
        "clip_grad_norm": 1.0,
        "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1},
        **training,
    }
    job = ResolvedJob.model_validate(
        {
            "name": "toy",
            "model": {"family": "mlp", "in_features": 5, "outputs": 7},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "digits"}},
            "training": training,
            "strategy": strategy,
            "scaling": {"workers": world_size},
        }
    )
    return Plan(
        version="0",
        run_id="toy",
        job=job,
        base_dir="/",
        storage="/nowhere",
        cache="/nowhere",
        tracking_uri="",
        world_size=world_size,
        micro_batch_size=2,
        accumulation_steps=GLOBAL_BATCH // world_size // 2,
        total_steps=1000,
        train_samples=0,
        eval_samples=0,
        evaluate_every=0,
        sample_every=0,
        checkpoint_every=1,
        parameters=2000,
        trainable_parameters=2000,
        flops_per_sample=0,
        memory=MemoryEstimate(parameters=0, gradients=0, optimizer=0, activations=0),
    )


def global_batch(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(GLOBAL_BATCH, 5, generator=generator)
    return {"x": x, "y": (x.sum(1).abs() * 2).long() % 7}


def micro_batches(step: int, rank: int, world_size: int, size: int = 2) -> list[dict[str, Tensor]]:
    share = GLOBAL_BATCH // world_size
    mine = {name: t[rank * share : (rank + 1) * share] for name, t in global_batch(step).items()}
    return [{name: t[at : at + size] for name, t in mine.items()} for at in range(0, share, size)]


@dataclass
class Run:
    """What one rank has to say after a toy run."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    ranges: list[tuple[str, str, tuple[int, ...], int, Tensor]] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
    differ: str | None = None


def train(
    plan: Plan,
    kind: str = "classify",
    *,
    steps: int = 20,
    start: int = 0,
    resume: str | None = None,
    save: str | None = None,
    evaluate: bool = False,
    device: str = "cpu",
    width: int = 10,
) -> Run:
    """Train a toy on this rank, and save or resume where asked."""
    import torch.distributed as dist

    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    objective = toy_objective(kind)
    engine = strategies.prepare(plan, toy_modules(kind, width), objective, torch.device(device))
    run = Run()
    if resume is not None:
        checkpoint = checkpoint_at(resume)
        engine.load(open_reader(checkpoint), checkpoint.meta["scalars"])
    for step in range(start, start + steps):
        micros = [
            {name: t.to(device) for name, t in batch.items()}
            for batch in micro_batches(step, rank, world_size)
        ]
        for phase in objective.phases:
            total = torch.zeros((), device=device)
            for index, batch in enumerate(micros):
                with engine.micro_step(phase, last=index == len(micros) - 1):
                    with engine.autocast():
                        sums = objective.loss(phase, engine.modules, batch)
                    engine.backward(phase, sums.loss / GLOBAL_BATCH)
                total += sums.loss.detach() / GLOBAL_BATCH
            run.norms.append(engine.step(phase, 1 / (1 + step), plan.job.training.clip_grad_norm))
            if world_size > 1:
                dist.all_reduce(total)
            run.losses.append(float(total))
        if evaluate:
            with torch.no_grad():
                engine.modules["model"].eval()(micros[0]["x"])
                engine.modules["model"].train()
    run.differ = engine.replicas_differ()
    run.ranges = [(r.kind, r.name, r.shape, r.start, r.values.clone()) for r in engine.state()]
    run.scalars = engine.scalars()
    if save is not None:
        group = dist.new_group(backend="gloo") if world_size > 1 else None
        checkpoints = Checkpoints(save, attempt=1, rank=rank, world_size=world_size, group=group)
        checkpoints.save(start + steps, engine.state(), {"scalars": run.scalars}, asynchronous=True)
        checkpoints.wait()
    engine.close()
    return run


def assembled(runs: list[Run]) -> dict[tuple[str, str], Tensor]:
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


def train_and_save(plan: Plan, kind: str, steps: int, root: str) -> Run:
    return train(plan, kind, steps=steps, save=root)


def resume(plan: Plan, kind: str, path: str, start: int, steps: int) -> Run:
    return train(plan, kind, start=start, steps=steps, resume=path)


def evaluating(plan: Plan) -> Run:
    return train(plan, evaluate=True)


def train_with_one_rank_changed(plan: Plan) -> str | None:
    """One bit of one element on rank 1 is another: what ``replicas_differ`` says."""
    import torch.distributed as dist

    engine = strategies.prepare(plan, toy_modules("classify"), Classify(), torch.device("cpu"))
    assert engine.replicas_differ() is None
    bias = engine.modules["model"].get_parameter("layers.1.up.bias")
    if dist.get_rank() == 1:
        bias.data.view(torch.int32)[3] ^= 1
    answer = engine.replicas_differ()
    engine.close()
    return answer


def step_on_nan(plan: Plan) -> tuple[float, dict[tuple[str, str], Tensor], dict[tuple[str, str], Tensor]]:
    """The norm of a gradient that is no number on rank 1 only, and the parameters before and after the step."""
    import torch.distributed as dist

    engine = strategies.prepare(plan, toy_modules("classify"), Classify(), torch.device("cpu"))

    def parameters() -> dict[tuple[str, str], Tensor]:
        return {(r.name, str(r.start)): r.values.clone() for r in engine.state() if r.kind == "parameter"}

    before = parameters()
    micros = micro_batches(0, dist.get_rank(), dist.get_world_size())
    for index, batch in enumerate(micros):
        with engine.micro_step("model", last=index == len(micros) - 1):
            sums = Classify().loss("model", engine.modules, batch)
            bad = math.nan if dist.get_rank() == 1 and index == 0 else 1.0
            engine.backward("model", sums.loss * bad / GLOBAL_BATCH)
    norm = engine.step("model", 1.0, 1.0)
    after = parameters()
    engine.close()
    return norm, before, after
