"""nanoGPT's CPU recipe, ours and theirs in turns in one process: seconds a step, and the validation loss of both.

    git clone https://github.com/karpathy/nanoGPT ../nanoGPT
    python benchmarks/nanogpt.py --nanogpt ../nanoGPT --steps 2000

Both train on the same tokens and are evaluated on the same blocks. Theirs is their model and optimizer in the steps of
their train.py (random offsets, one forward and backward, clipping at 1, AdamW); ours is the whole worker loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from quick_train import IN_PROCESS, all_rows, tensors

from orchestrator import data, loop, models, sdk, strategies
from orchestrator.planning.schedule import learning_rate_factor
from orchestrator.testing import RecordingSurroundings

TURN = 100
"""Steps of one side before the other's turn."""


class Ours:
    def __init__(self, plan: sdk.Plan, prepared: data.Prepared) -> None:
        self.plan = plan.model_copy(update={"evaluate_every": 0})
        torch.manual_seed(plan.job.training.seed)
        modules = models.build_modules(plan.job.model, plan.job.objective)
        self.objective = models.build_objective(plan.job.model, plan.job.objective)
        self.engine = strategies.prepare(plan, modules, self.objective, torch.device("cpu"))
        self.stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0, ready=tensors)

    def take(self, first: int, stop: int) -> None:
        around = RecordingSurroundings(stop_at=stop)
        loop.train(self.plan, self.engine, self.objective, self.stream, around, first)

    def validation(self, blocks: np.ndarray) -> float:
        batches = (tensors({"tokens": part}) for part in np.array_split(blocks, 20))
        return loop.evaluate(self.engine, self.objective, batches)["loss"]


class Theirs:
    def __init__(self, checkout: str, plan: sdk.Plan, stream: np.ndarray) -> None:
        found = importlib.util.spec_from_file_location("nanogpt_model", Path(checkout) / "model.py")
        module = importlib.util.module_from_spec(found)
        sys.modules["nanogpt_model"] = module  # their dataclass looks itself up
        found.loader.exec_module(module)
        torch.manual_seed(1337)
        model, self.training = plan.job.model, plan.job.training
        self.context, self.total = model.context, plan.total_steps
        self.model = module.GPT(
            module.GPTConfig(
                block_size=model.context,
                vocab_size=model.vocabulary,
                n_layer=model.layers,
                n_head=model.heads,
                n_embd=model.width,
                dropout=0.0,
                bias=model.bias,
            )
        )
        optimizer = self.training.optimizer
        self.optimizer = self.model.configure_optimizers(
            optimizer.weight_decay, optimizer.learning_rate, optimizer.betas, "cpu"
        )
        self.stream = stream.astype(np.uint16)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.randint(len(self.stream) - self.context, (self.training.global_batch_size,))
        rows = [torch.from_numpy(self.stream[i : i + self.context + 1].astype(np.int64)) for i in places]
        both = torch.stack(rows)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def take(self, first: int, stop: int) -> None:
        inputs, targets = self._batch()
        for step in range(first + 1, stop + 1):
            factor = learning_rate_factor(self.training.schedule, step, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = factor * self.training.optimizer.learning_rate
            _, loss = self.model(inputs, targets)
            inputs, targets = self._batch()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if step % self.training.log_every == 0:
                loss.item()

    @torch.no_grad()
    def validation(self, blocks: np.ndarray) -> float:
        self.model.eval()
        tokens = torch.from_numpy(blocks)
        losses = [
            self.model(part[:, :-1], part[:, 1:].contiguous())[1].item() * len(part)
            for part in tokens.split(256)
        ]
        return sum(losses) / len(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", default="benchmarks/gpt-shakespeare.yaml")
    parser.add_argument("--nanogpt", required=True, help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = sdk.make_plan(given.job, overrides=(*IN_PROCESS, f"training.max_steps={given.steps}"))
    prepared = data.prepare(plan)
    rows, held_out = (all_rows(plan, prepared, part)["tokens"] for part in ("train", "eval"))
    stride = plan.job.data.prepare.stride  # blocks may overlap; theirs are cut from the whole text
    stream = np.concatenate([rows[:, :stride].ravel(), rows[-1, stride:]])
    sides = {"ours": Ours(plan, prepared), "nanogpt": Theirs(given.nanogpt, plan, stream)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn, first in enumerate(range(0, given.steps, TURN)):
        print(f"step {first} of {given.steps}", file=sys.stderr, flush=True)
        stop = min(given.steps, first + TURN)
        for name in sides if turn % 2 else reversed(sides):
            started = time.perf_counter()
            sides[name].take(first, stop)
            seconds[name].append((time.perf_counter() - started) / (stop - first))
        print(json.dumps({name: round(times[-1], 5) for name, times in seconds.items()}), file=sys.stderr)
    sides["ours"].stream.close()
    found = {
        name: {
            "ms_per_step_median": 1e3 * statistics.median(seconds[name]),
            "ms_per_step_best": 1e3 * min(seconds[name]),
            "validation_loss": side.validation(held_out),
        }
        for name, side in sides.items()
    }
    ratios = [ours / theirs for ours, theirs in zip(seconds["ours"], seconds["nanogpt"], strict=True)]
    print(json.dumps({**found, "ours_over_nanogpt_median": statistics.median(ratios), "steps": given.steps}))


if __name__ == "__main__":
    main()
