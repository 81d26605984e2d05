"""A look at a job's data where it is: ``python -m orchestrator.clusters.shared.data_look`` reads a line of JSON from its standard
input, ``{"job": ..., "base_dir": ..., "cache": ...}``, and answers with a marked line: the facts, or the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from orchestrator import data
from orchestrator.clusters.shared.stores import ANSWER_MARK
from orchestrator.errors import DataError, InfrastructureError, SpecError, TrainwrightError, UserCodeError
from orchestrator.machine import is_installed
from orchestrator.planning.plan import DataFacts
from orchestrator.spec.data import BuiltinSource, PipelineSource, Split
from orchestrator.spec.job import JobSpec
from orchestrator.storage import absolute

COMMAND = ("python", "-m", "orchestrator.clusters.shared.data_look")
_ERRORS = {error.__name__: error for error in (SpecError, DataError, UserCodeError, InfrastructureError)}


def reads_data_here() -> bool:
    """Whether this process has what data is read with. A client that only submits has not."""
    return is_installed("pyarrow") and is_installed("numpy")


def places_of(job: JobSpec, base_dir: str) -> Iterator[str]:
    """Absolute paths and URIs of a job's files."""
    spec = job.data
    sections = [*(spec.train if isinstance(spec.train, tuple) else (spec.train,)), spec.eval]
    for section in sections:
        if section is not None and not isinstance(section, BuiltinSource | PipelineSource | Split):
            yield absolute(section.path, base_dir)


def question(job: JobSpec, base_dir: str, cache: str) -> bytes:
    """What the command is sent."""
    asked = {"job": job.model_dump(mode="json"), "base_dir": base_dir, "cache": cache}
    return json.dumps(asked).encode() + b"\n"


def facts_of(output: str, cluster: str) -> DataFacts:
    """What the command answered.

    Raises:
        TrainwrightError: what it met there, as it is said there; InfrastructureError where it gave no answer.
    """
    for line in reversed(output.splitlines()):
        if line.startswith(ANSWER_MARK):
            answer = json.loads(line.removeprefix(ANSWER_MARK))
            if "error" in answer:
                kind, said = answer["error"]
                raise _ERRORS.get(kind, InfrastructureError)(
                    f"{said} (looked at in a pod of cluster {cluster})"
                )
            return DataFacts.model_validate(answer["facts"])
    raise InfrastructureError(f"cluster {cluster}: a pod that was to look at the data gave no answer")


def main() -> None:
    """Look, and answer."""
    asked = json.loads(sys.stdin.readline())
    answer: dict[str, Any]
    try:
        job = JobSpec.model_validate(asked["job"])
        answer = {"facts": data.inspect(job, asked["base_dir"], asked["cache"]).model_dump(mode="json")}
    except TrainwrightError as error:
        answer = {"error": [type(error).__name__, str(error)]}
    print(ANSWER_MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
