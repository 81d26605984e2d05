"""The real driver and the real loop, with a witness: what each rank took at each step, and a kill where a test says.

``python -m recording --plan plan.json --launch 1`` is ``python -m orchestrator.driver`` but for that. What it needs
lies beside the run: ``<storage>/kills.json`` (a list, by attempt, of ``step``, ``rank`` and ``victim``).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "recorded"


def run(config: Mapping[str, Any]) -> dict[str, Any]:
    """In place of ``train_on_worker``: the same, with the loop's steps and logs written down."""
    from orchestrator import loop, worker

    real = loop.train

    def train(
        plan: Any, engine: Any, objective: Any, steps: Any, around: Any, start_step: int
    ) -> loop.Outcome:
        witness = Witness(plan.storage, start_step)
        return real(plan, engine, objective, witness.steps(steps), Noting(around, witness), start_step)

    loop.train = train
    try:
        return worker.run(config)
    finally:
        loop.train = real


class Witness:
    """Writes one rank's file of one attempt, and kills when it is time."""

    def __init__(self, storage: str, start_step: int) -> None:
        import torch.distributed as dist

        self.rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._storage, self._step = Path(storage), start_step
        folder = self._storage / FOLDER
        folder.mkdir(exist_ok=True)
        number = [len(list(folder.glob("attempt-*-rank-0")))]
        if world_size > 1:
            dist.broadcast_object_list(number, src=0)
        kills = json.loads((self._storage / "kills.json").read_text())
        self._kill = kills[number[0]] if number[0] < len(kills) else None
        if self._kill is not None and self._kill["rank"] % world_size != self.rank:
            self._kill = None
        self._file = (folder / f"attempt-{number[0]}-rank-{self.rank}").open("w")

    def steps(self, steps: Iterator[Any]) -> Iterator[Any]:
        """The same steps, each written down before it is taken."""
        for batch in steps:
            self._step += 1
            ids = [i for micro in batch.micros for i in micro["sample_id"].tolist()]
            self.note("step", self._step, ids)
            if self._kill is not None and self._kill["step"] == self._step:
                self._strike(self._kill["victim"])
            yield batch

    def note(self, what: str, step: int, value: Any) -> None:
        """A line that is in the file whatever happens next."""
        self._file.write(json.dumps([what, step, value]) + "\n")
        self._file.flush()

    def _strike(self, victim: str) -> None:
        if victim == "driver":
            os.kill(int((self._storage / "driver.pid").read_text()), signal.SIGKILL)
            threading.Event().wait()  # Ray ends the workers of a driver that is gone
        if victim == "node":
            raylet = os.getppid()
            assert b"raylet" in Path(f"/proc/{raylet}/cmdline").read_bytes()
            os.kill(raylet, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class Noting:
    """The loop's surroundings, with the loss of each step written down to the last bit."""

    def __init__(self, around: Any, witness: Witness) -> None:
        self._around, self._witness = around, witness

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """As the surroundings do."""
        if "train/loss" in values and self._witness.rank == 0:
            self._witness.note("loss", step, float(values["train/loss"]).hex())
        self._around.log(step, values, seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._around, name)


def main() -> int:
    """The driver, with this module's ``run`` for the workers."""
    import recording  # under its own name, so that workers find it

    from orchestrator import driver
    from orchestrator.planning.plan import Plan

    plan = Plan.model_validate_json(Path(sys.argv[sys.argv.index("--plan") + 1]).read_text())
    (Path(plan.storage) / "driver.pid").write_text(str(os.getpid()))
    return driver.main(sys.argv[1:], work=recording.run)


if __name__ == "__main__":
    sys.exit(main())
