"""How a launch that asks a trained model is followed, and its answer shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orchestrator.cli.options import print_json, say

if TYPE_CHECKING:
    from orchestrator.inference.results import Evaluation
    from orchestrator.sdk import Run


def answer(asked: Run, *, json: bool) -> None:
    """Follow it to its end, then show what came of it; exits with its exit code where nothing did."""
    from orchestrator import ask
    from orchestrator.cli.follow import follow
    from orchestrator.inference.results import Evaluation

    if json:
        asked.wait(check=True)
    elif code := follow(asked):
        sys.exit(code)
    found = ask.answer_of(asked)
    if json:
        print_json(found.model_dump(mode="json"))
    elif isinstance(found, Evaluation):
        show_evaluation(found)
    else:
        say(found.sentence)


def show_evaluation(found: Evaluation) -> None:
    """Its metrics, a line each."""
    say(found.sentence)
    width = max(len(name) for name in found.metrics)
    for name, value in found.metrics.items():
        say(f"  {name.ljust(width)}  {value:.6g}")
