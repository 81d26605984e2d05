from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, JobFile, Overrides, print_json, say


def verify(
    job: JobFile,
    set_: Overrides = None,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps of each run; even.", min=2)] = 6,
    json: AsJson = False,
) -> None:
    """Prove that distribution changes no result for this job: one worker, several, stopped and resumed, resharded."""
    from orchestrator import sdk
    from orchestrator.errors import SpecError
    from orchestrator.telemetry.closing import describe_run
    from orchestrator.telemetry.tracking import open_tracker
    from orchestrator.verify import VerifyRow
    from orchestrator.verify import verify as compare

    if steps % 2:
        raise SpecError(f"--steps {steps}: must be even, since the run is stopped halfway")
    began = time.time()
    plan = sdk.make_plan(job, overrides=set_ or ())

    def show(row: VerifyRow) -> None:
        say(
            f"{'pass' if row.passed else 'FAIL'}  {row.check:<44} {row.quantity:<16} {row.difference:.2e}"
            f"  (at most {row.tolerance:.0e})"
        )

    rows = compare(plan, steps=steps, on_row=None if json else show)
    if json:
        print_json([{**row.model_dump(mode="json"), "passed": row.passed} for row in rows])
    all_passed = all(row.passed for row in rows)
    describe_run(plan, data={}, started_at=began)
    tracker = open_tracker(plan, attempt=1, launch=1, start_step=0, on_url=lambda url: None)
    tracker.log(1, {f"verify/{row.check} {row.quantity}": row.difference for row in rows})
    tracker.finish("FINISHED" if all_passed else "FAILED")
    if not all_passed:
        sys.exit(1)
