"""The LSTM recipes as a plain PyTorch script: torch's own modules, optimizer and shuffling, none of our loop, engine,
families or objectives. Prints the metric that ``trainwright run`` reports for the same job.

    python benchmarks/plain_lstm.py benchmarks/lstm-etth1.yaml --seeds 2
    python benchmarks/plain_lstm.py benchmarks/lstm-wikitext2.yaml
"""

from __future__ import annotations

import argparse
import json
import math

import torch
import torch.nn.functional as F
from quick_train import IN_PROCESS, all_rows
from torch import nn

from orchestrator import data, sdk


class Forecast(nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.lstm = nn.LSTM(model.series, model.width, model.layers, batch_first=True)
        self.head = nn.Linear(model.width, model.horizon * model.series)
        self.shape, self.period = (model.horizon, model.series), model.period

    def forward(self, past):
        last = past[:, -1:]
        start = last if self.period is None else past[:, -self.period :]
        if self.period is not None and self.shape[0] > self.period:
            raise SystemExit("this script repeats no season: take a horizon of one period at most")
        start = start[:, : self.shape[0]]
        state = self.lstm(past - last)[0][:, -1]
        return self.head(state).unflatten(1, self.shape) + start


class Words(nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.vocabulary, model.embedding_width)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.lstm = nn.LSTM(model.embedding_width, model.width, model.layers, batch_first=True)
        self.head = nn.Linear(model.width, model.vocabulary)
        self.head.weight = self.embedding.weight
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, tokens):
        return self.head(self.dropout(self.lstm(self.dropout(self.embedding(tokens)))[0]))


def losses_of(net: nn.Module, rows: dict, kind: str) -> dict[str, torch.Tensor]:
    """What is minimized, as ``loss``, and what else is reported."""
    if isinstance(net, Forecast):
        error = net(rows["past"]) - rows["future"]
        both = {"mse": error.square().mean(), "mae": error.abs().mean()}
        return {"loss": both[kind], **both}
    tokens = rows["tokens"]
    return {"loss": F.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())}


def run(plan: sdk.Plan, train: dict, held_out: dict, seed: int) -> dict[str, float]:
    training, model, kind = plan.job.training, plan.job.model, getattr(plan.job.objective, "loss", "")
    torch.manual_seed(seed)
    net = Forecast(model) if plan.job.objective.kind == "forecasting" else Words(model)
    decayed = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.optimizer.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=training.optimizer.learning_rate,
    )
    warmup, last = training.schedule.warmup_steps, training.schedule.final_ratio

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, plan.total_steps - warmup)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    count, batch, step = len(next(iter(train.values()))), training.global_batch_size, 0
    while step < plan.total_steps:
        for places in torch.randperm(count).split(batch):
            losses = losses_of(net, {name: values[places] for name, values in train.items()}, kind)
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), training.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            step += 1
            if step == plan.total_steps:
                break
    net.eval()
    with torch.no_grad():
        total = len(next(iter(held_out.values())))
        sums: dict[str, float] = {}
        for places in torch.arange(total).split(256):
            for name, value in losses_of(net, {n: v[places] for n, v in held_out.items()}, kind).items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(places)
        return {name: value / total for name, value in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = sdk.make_plan(given.job, overrides=(*IN_PROCESS, *given.overrides))
    prepared = data.prepare(plan)
    names = ("past", "future") if plan.job.objective.kind == "forecasting" else ("tokens",)
    train, held_out = (
        {name: torch.from_numpy(rows[name]) for name in names}
        for rows in (all_rows(plan, prepared, part) for part in ("train", "eval"))
    )
    seeds = [run(plan, train, held_out, seed) for seed in range(given.seeds)]
    mean = {name: sum(one[name] for one in seeds) / len(seeds) for name in seeds[0]}
    print(json.dumps({"job": plan.job.name, "steps": plan.total_steps, "seeds": seeds, "plain_mean": mean}))


if __name__ == "__main__":
    main()
