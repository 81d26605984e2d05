"""``python -m orchestrator.fitting``: plans in, a line of JSON each; the peak of each out, in the same order.

A process of its own, since a simulated rank needs a process without a process group, and DeepSpeed decides once and for
all which device it is imported for.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from typing import TextIO


def main() -> None:
    """Answer until there is no line any more."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print as they please

    importlib.import_module("orchestrator.fitting.simulate")  # before the first fork, so that all have it
    for line in sys.stdin:
        if '"kind":"zero"' in line:
            importlib.import_module("deepspeed")
        # DeepSpeed leaves torch changed behind it, so that each plan has a process to itself
        if not (child := os.fork()):
            _answer(line, answers)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(1)


def _answer(line: str, answers: TextIO) -> None:
    from orchestrator import own_code
    from orchestrator.errors import TrainwrightError
    from orchestrator.fitting.simulate import simulate
    from orchestrator.planning.plan import Plan

    answer: dict[str, object]
    try:
        plan = Plan.model_validate_json(line)
        if plan.job.own_factories:
            own_code.put_first(own_code.folder_of(plan.base_dir, plan.job.environment.working_dir))
        answer = {"peak": simulate(plan).model_dump(mode="json")}
    except TrainwrightError as error:
        answer = {"error": str(error)}
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
