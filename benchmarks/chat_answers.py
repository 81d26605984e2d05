"""Does the model of ``examples/gpt-chat.yaml`` answer? The last question of each held-out conversation that is not in training
too, after all that was said before.

    PYTHONPATH=examples python benchmarks/chat_answers.py [--seeds 3] [--set training.max_steps=300]

An answer is right if it names the number of the conversation's own. Prints the share of right ones by the model, which takes the
likeliest token each time, and by who knows for each question the number that most often answered it in training, whatever
had been said before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch
from quick_train import train, trained_modules
from small_talk import NUMBERS, talks

from orchestrator.data import inputs_of
from orchestrator.models.objectives.generation import continued

TOKENS = 8
"""Of an answer, at most."""

Talk = list[dict[str, str]]


def number_in(text: str) -> str:
    """The first number that it names; empty where it names none."""
    return next((word for word in text.lower().strip(".").replace(",", "").split() if word in NUMBERS), "")


def by_question(training: list[Talk]) -> dict[str, str]:
    """For each question the number that most often answers it."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for talk in training:
        for question, answer in zip(talk[::2], talk[1::2], strict=True):
            found[question["content"]][number_in(answer["content"])] += 1
    return {question: counts.most_common(1)[0][0] for question, counts in found.items()}


def right(held_out: list[Talk], answers: list[str]) -> float:
    """The share of conversations whose last answer names the same number."""
    pairs = zip(held_out, answers, strict=True)
    return float(np.mean([number_in(talk[-1]["content"]) == number_in(answer) for talk, answer in pairs]))


def of_model(plan: Any, prepared: Any, held_out: list[Talk]) -> list[str]:
    """Its answers, the likeliest token each time."""
    model, inputs = trained_modules(plan)["model"], inputs_of(plan.job, prepared)
    answers = []
    for talk in held_out:
        prompt = torch.from_numpy(inputs.prompt(talk))[None]
        chance = torch.zeros(1, TOKENS)
        text = continued(model, prompt, chance, context=plan.job.model.context, temperature=0.0)
        answers.append(inputs.written(text[0, prompt.shape[1] :].tolist()))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    results = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            overrides = (*given.overrides, f"training.seed={seed}")
            plan, prepared, _ = train("examples/gpt-chat.yaml", folder, overrides)
            training = talks(**plan.job.data.train.arguments)
            seen = {json.dumps(talk) for talk in training}
            held_out = [
                talk for talk in talks(**plan.job.data.eval.arguments) if json.dumps(talk) not in seen
            ]
            known = by_question(training)
            results.append(
                {
                    "model": right(held_out, of_model(plan, prepared, held_out)),
                    "by_question": right(held_out, [known.get(talk[-2]["content"], "") for talk in held_out]),
                }
            )
            print(json.dumps(results[-1]), file=sys.stderr)
    print(json.dumps({name: float(np.mean([one[name] for one in results])) for name in results[0]}))


if __name__ == "__main__":
    main()
