"""How long a run on this machine takes from the loss of a worker to the next new step, beside its cold start, with processes that wait for
a restart and without: ``python benchmarks/warm_restart.py [--strategy ddp] [--train-seconds 60]``.

Two workers train; one gets SIGKILL. Both runs are on the same cores one after the other; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import tempfile
from pathlib import Path

from real_nodes import driver_of, endless, plan_of

from orchestrator import events
from orchestrator.private import ray_folder


def plan(folder: Path, strategy: str, *, warm: bool) -> Path:
    """Of a run that does not end by itself."""
    sections = {
        "scaling": {"workers": 2},
        "strategy": {"kind": strategy},
        "checkpoint": {"every_steps": 500},
        "recovery": {"warm_processes": warm},
    }
    return plan_of(folder, endless("warm", 24, 64, **sections))


def measured(command: list[str], train_seconds: float) -> tuple[float, float]:
    """Seconds of the cold start, and from the loss to the next new step."""
    private = str(ray_folder(secrets.token_hex(4)))
    driver = subprocess.Popen(
        [*command, "--start-ray", private],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert driver.stdout is not None
    pids: dict[int, int] = {}
    began = first = killed = 0.0
    reached, is_back = 0, False
    try:
        for line in driver.stdout:
            event = events.parse(line) or {"event": ""}
            if event["event"] == "state":
                began = event["time"]
            elif event["event"] == "worker":
                pids[event["rank"]] = event["pid"]
            elif event["event"] == "attempt":
                is_back = killed > 0  # until then steps of the group before are told
            elif event["event"] == "metrics":
                first = first or event["time"]
                if is_back and event["step"] > reached:
                    return first - began, event["time"] - killed
                reached = max(reached, event["step"])
                if not killed and event["time"] - first > train_seconds:
                    killed = event["time"]
                    os.kill(pids[1], signal.SIGKILL)
        raise SystemExit("the run ended by itself")
    finally:
        driver.terminate()
        driver.communicate()


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--train-seconds", type=float, default=60.0)
    options = parser.parse_args()
    print("| processes wait | cold start, s | loss to the next new step, s | share of a cold start |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for warm in (True, False):
            place = Path(folder, str(warm))
            place.mkdir()
            cold, again = measured(driver_of(plan(place, options.strategy, warm=warm)), options.train_seconds)
            print(
                f"| {'yes' if warm else 'no'} | {cold:.1f} | {again:.1f} | {again / cold:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
