"""The peak that ``plan`` predicts for a worker against what real ranks hold: all families, strategies and 1, 2, 4 ranks.

Run: ``python benchmarks/predicted_memory.py [RESULTS.jsonl [RANKS...]]`` (half an hour on two quiet cores). Takes up where it was broken off, if
it is given the same file. Both sides take the same steps of the real loop and engine, one without memory, the other with;
counted are storages that tensors refer to, so that the time does not matter. Measured is the rank that holds most.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

from orchestrator.fitting.ask import Simulator, simulator
from orchestrator.fitting.simulate import measure
from orchestrator.models.configs import (
    AdversarialConfig,
    AutoencoderConfig,
    BertConfig,
    CausalLmConfig,
    ClassificationConfig,
    CnnConfig,
    FamilyConfig,
    GanConfig,
    GptConfig,
    GruConfig,
    LstmConfig,
    MaskedLmConfig,
    MlpConfig,
    ObjectiveConfig,
    ReconstructionConfig,
    RnnConfig,
    SequenceToSequenceConfig,
    TransformerConfig,
)
from orchestrator.planning.peak import Peak
from orchestrator.planning.plan import Plan
from orchestrator.strategies.ranks import Ranks
from orchestrator.testing import small_plan

_TEXT = {"vocabulary": 199, "context": 32}
_WORDS = {**_TEXT, "width": 48, "embedding_width": 48}
_IMAGE = {"channels": 1, "image_size": 16}
MODELS: dict[str, tuple[FamilyConfig, ObjectiveConfig]] = {
    "mlp": (MlpConfig(size="debug", in_features=24, outputs=4), ClassificationConfig()),
    "cnn": (CnnConfig(size="debug", in_channels=2, image_size=16, outputs=3), ClassificationConfig()),
    "rnn": (RnnConfig(**_WORDS), CausalLmConfig()),
    "lstm": (LstmConfig(**_WORDS, layers=2), CausalLmConfig()),
    "gru": (GruConfig(**_WORDS), CausalLmConfig()),
    "gpt": (GptConfig(layers=2, heads=2, width=64, **_TEXT), CausalLmConfig()),
    "bert": (BertConfig(size="debug", **_TEXT), MaskedLmConfig(mask_token=2, special_tokens=(0, 1))),
    "transformer": (
        TransformerConfig(size="debug", **_TEXT),
        SequenceToSequenceConfig(start_token=0, end_token=1),
    ),
    "gan": (GanConfig(size="debug", **_IMAGE), AdversarialConfig()),
    "autoencoder": (AutoencoderConfig(size="debug", layers="convolution", **_IMAGE), ReconstructionConfig()),
}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}
RANKS, RECOMPUTATION = (1, 2, 4), ("none", "blocks")
MICRO, MICROS = 8, 2

Case = tuple[str, str, int, str]


def plan_of(model: str, strategy: str, ranks: int, recomputation: str) -> Plan:
    """Two micro-batches a step, AdamW, fp32."""
    config, objective = MODELS[model]
    plan = small_plan(
        ranks,
        strategy=STRATEGIES[strategy],
        training={"global_batch_size": MICRO * MICROS * ranks, "recomputation": recomputation},
        micro_batch_size=MICRO,
        parameters=100_000,
    )
    return plan.model_copy(
        update={"job": plan.job.model_copy(update={"model": config, "objective": objective})}
    )


def compared(case: Case, ask: Simulator, ranks: Ranks) -> dict[str, Any]:
    """Both peaks of one case, by part."""
    plan = plan_of(*case)
    held: list[Peak] = ranks.run(measure, plan)
    return {
        "case": case,
        "predicted": ask.peak(plan).model_dump(),
        "measured": max(held, key=lambda peak: peak.total).model_dump(),
    }


def results(log: Path, counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """What is in the file, then what was not yet; each is written down at once."""
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    yield from known
    done = {tuple(result["case"]) for result in known}
    for count in counts:
        cases = [case for case in product(MODELS, STRATEGIES, (count,), RECOMPUTATION) if case not in done]
        if not cases:
            continue
        with tempfile.TemporaryDirectory() as remembered, simulator(Path(remembered)) as ask:
            for case in cases:
                # ranks of its own, as a run has: an engine of DeepSpeed leaves its process changed
                with Ranks(count, timeout_seconds=600, preload=["deepspeed"]) as ranks:
                    result = compared(case, ask, ranks)
                with log.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(*case, f"{error(result):+.1%}", file=sys.stderr, flush=True)
                yield result


def error(result: dict[str, Any]) -> float:
    """Of the prediction, against what was held."""
    predicted, measured = (Peak(**result[side]).total for side in ("predicted", "measured"))
    return predicted / measured - 1


def table(found: list[dict[str, Any]], counts: tuple[int, ...]) -> str:
    """Measured KB and the error of the prediction: a row for each family and strategy."""
    by_case = {tuple(result["case"]): result for result in found}
    columns = list(product(counts, RECOMPUTATION))
    lines = [
        "| family | strategy | " + " | ".join(f"{ranks}, {policy}" for ranks, policy in columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for model, strategy in product(MODELS, STRATEGIES):
        cells = []
        for ranks, policy in columns:
            result = by_case[model, strategy, ranks, policy]
            cells.append(f"{Peak(**result['measured']).total / 1000:,.0f} {error(result):+.1%}")
        lines.append(f"| {model} | {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    log = Path(sys.argv[1] if len(sys.argv) > 1 else "predicted_memory.jsonl")
    counts = tuple(map(int, sys.argv[2:])) or RANKS
    found = list(results(log, counts))
    print(table(found, counts))
    errors = sorted(abs(error(result)) for result in found)
    within = sum(one <= 0.05 for one in errors)
    print(
        f"\n{len(errors)} cases: median {statistics.median(errors):.2%}, largest {errors[-1]:.1%}, within 5 %: {within}"
    )


if __name__ == "__main__":
    main()
