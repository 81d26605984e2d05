"""Every family under every strategy on two workers against one worker: 20 steps, fp32, AdamW, accumulation, clipping.

Run: ``python benchmarks/parity.py`` (ten minutes on two cores). Prints the table of docs/strategies.md and exits
non-zero where a loss differs by more than 1e-5 of itself.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "contract"))

import engine_toys as toys
from family_runs import family_plan, train_family

from orchestrator.strategies.ranks import Ranks

STEPS, TOLERANCE = 20, 1e-5
OPTIMIZER = {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01}
FAMILIES = {
    "mlp": "mlp-classification",
    "cnn": "cnn-images",
    "rnn": "rnn-lm",
    "lstm": "lstm-lm",
    "gru": "gru-lm",
    "gpt": "gpt",
    "bert": "bert-mlm",
    "transformer": "transformer-lengths",
    "gan": "gan-wasserstein",
    "autoencoder": "autoencoder-variational",
}
STRATEGIES = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    **{f"zero-{stage}": {"kind": "zero", "stage": stage} for stage in (1, 2, 3)},
}


def distance(got: list[toys.Run], expected: toys.Run) -> float:
    """Of all parameters together, relative."""
    mine, theirs = toys.assembled(got), toys.assembled([expected])
    keys = [key for key in theirs if key[0] == "parameter"]
    size = sum(float(theirs[key].double().square().sum()) for key in keys)
    return math.sqrt(
        sum(float((mine[key].double() - theirs[key].double()).square().sum()) for key in keys) / size
    )


def main() -> None:
    print(f"| family | {' | '.join(STRATEGIES)} |\n|{'---|' * (len(STRATEGIES) + 1)}")
    worst = 0.0
    with Ranks(2, preload=["deepspeed"]) as pair:
        for family, case in FAMILIES.items():
            alone = train_family(family_plan(1, {"kind": "ddp"}, OPTIMIZER), case, STEPS)
            cells = []
            for strategy in STRATEGIES.values():
                runs = pair.run(train_family, family_plan(2, strategy, OPTIMIZER), case, STEPS)
                loss = max(
                    abs(a - b) / max(abs(b), 1e-3) for a, b in zip(runs[0].losses, alone.losses, strict=True)
                )
                worst = max(worst, loss)
                cells.append(f"{loss:.0e} / {distance(runs, alone):.0e}")
            print(f"| {family} | {' | '.join(cells)} |", flush=True)
    print(f"\nlargest relative difference of a loss {worst:.1e}; allowed {TOLERANCE:.0e}")
    if worst > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
