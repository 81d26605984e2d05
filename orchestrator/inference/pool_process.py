"""The process of a pool: a private Ray on which Ray Data hands parts out.

``python -m orchestrator.inference.pool_process`` reads plan, task and parts as one line of JSON from its standard input, and
tells of each part as it is done. It ends when that input does: with whoever started it, however that ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from orchestrator import events
from orchestrator.inference.handing_out import handed_out
from orchestrator.inference.pool_worker import failure_to_json
from orchestrator.planning.plan import Plan
from orchestrator.private import ray_folder
from orchestrator.ray_session import RaySession
from orchestrator.records import RunRecord


def main() -> int:
    """Read the order, have it done, tell."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, name="parent", daemon=True).start()
    try:
        for part, rows in _work(order):
            events.emit("part", part=part, rows=rows)
        return 0
    except Exception as error:
        events.emit("failed", error=failure_to_json(error))
        return 1


def _end_with_input() -> None:
    while os.read(0, 4096):  # not by sys.stdin, whose lock a thread would hold when the process ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _work(order: dict[str, Any]) -> Iterator[tuple[int, int]]:
    folder = ray_folder(f"predict-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed and had the same number
    plan = Plan.model_validate_json(order["plan"])
    with RaySession(plan, str(folder), RunRecord(plan.storage)):
        yield from handed_out(order["task"], order["parts"], order["workers"], {"num_cpus": 1})


if __name__ == "__main__":
    sys.exit(main())
