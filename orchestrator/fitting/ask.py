"""Ask a process of its own for the peaks of plans. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from orchestrator.errors import InfrastructureError, SpecError
from orchestrator.planning.devices import Device, runs_flash
from orchestrator.planning.peak import Peak
from orchestrator.planning.plan import Plan
from orchestrator.storage import store_at


class Simulator:
    """Answers with a plan's peak; what was asked before is remembered in files."""

    def __init__(self, remembered: Path) -> None:
        """
        Args:
            remembered: folder of answers, by plan; made where it is not there.

        """
        self._remembered = remembered
        self._process: subprocess.Popen[str] | None = None
        # a pipe that nobody reads would fill up
        self._said: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115

    def peak(self, plan: Plan, device: Device | None = None) -> Peak:
        """The most that one of the plan's workers holds.

        Args:
            plan: Of which workers.
            device: What each computes on. Default: what the job names, or a GPU that is not old.

        Raises:
            SpecError: the strategy can't do what the job asks.
            InfrastructureError: the process ended without an answer.

        """
        plan = plan if device is None else _on(plan, device)
        if plan.job.own_factories:
            return self._asked(plan)  # of code that may be another one tomorrow
        name = f"{_key(plan)}.json"
        with suppress(OSError, ValueError):
            return Peak.model_validate_json((self._remembered / name).read_text(encoding="utf-8"))
        peak = self._asked(plan)
        with suppress(OSError):  # a home that can't be written is said where it matters
            store_at(str(self._remembered)).write(name, peak.model_dump_json().encode())
        return peak

    def _asked(self, plan: Plan) -> Peak:
        process = self._process = self._process or _started(self._said)
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(plan.model_dump_json() + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self._process = None
            raise InfrastructureError(
                f"the plan's memory could not be found out: {_last_line(process, self._said)}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise SpecError(answer["error"])
        return Peak.model_validate(answer["peak"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._said.close()


@contextmanager
def simulator(remembered: Path) -> Iterator[Simulator]:
    """A simulator whose process ends with the block."""
    made = Simulator(remembered)
    try:
        yield made
    finally:
        made.close()


def _started(said: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.fitting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
    )


def _last_line(process: subprocess.Popen[str], said: IO[str]) -> str:
    process.communicate()
    said.seek(0)
    return next((line for line in reversed(said.read().splitlines()) if line.strip()), "it said nothing")


def _on(plan: Plan, device: Device) -> Plan:
    scaling = plan.job.scaling.model_copy(update={"accelerator_type": device.name})
    return plan.model_copy(update={"job": plan.job.model_copy(update={"scaling": scaling})})


def _key(plan: Plan) -> str:
    """Of all that a worker's memory follows from, and more."""
    job = plan.job
    content = [
        plan.version,
        sys.version_info[:2],
        plan.world_size,
        plan.micro_batch_size,
        min(plan.accumulation_steps, 2),
        *(
            part.model_dump(mode="json")
            for part in (job.model, job.objective, job.strategy, job.training.optimizer, job.initialize)
        ),
        {name: spec.model_dump(mode="json") for name, spec in job.training.phase_optimizers.items()},
        job.training.precision,
        job.training.recomputation,
        job.training.clip_grad_norm is None,
        job.scaling.gpus_per_worker,
        runs_flash(job.scaling.accelerator_type),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
