from __future__ import annotations

from orchestrator.cli.options import AsJson, JobFile, Overrides, print_json, say


def validate(job: JobFile, set_: Overrides = None, json: AsJson = False) -> None:
    """Check a job file: every error at once, with its line."""
    from orchestrator.spec.load import load_spec

    spec = load_spec(job, set_ or ())
    if json:
        print_json(spec.model_dump(mode="json"))
    else:
        bounds = spec.scaling.range
        workers = f"{bounds.min} to {bounds.max}" if bounds else spec.scaling.workers
        say(
            f"{job}: {spec.name} is a valid job ({spec.model.family}, {spec.strategy.kind}, {workers} workers)"
        )
