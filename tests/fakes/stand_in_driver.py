"""Stands for ``orchestrator.driver`` on this machine: a real process that does what a test tells it, and nothing else.

``python stand_in_driver.py ADDRESS --plan FILE --launch N ...`` connects to the test's socket (an abstract one), says who
it is, and answers each order when it has been followed.
"""

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path

from orchestrator import events
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--launch", type=int)
    options, _ = parser.parse_known_args()
    plan = json.loads(options.plan.read_text())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"\0{options.address}")
        stream = connection.makefile("rw")
        print(
            json.dumps({"run": plan["run_id"], "launch": options.launch, "pid": os.getpid()}),
            file=stream,
            flush=True,
        )
        for line in stream:
            follow(json.loads(line), RunRecord(plan["storage"]), options.launch)
            print("done", file=stream, flush=True)


def follow(order, record, launch):
    match order:
        case {"print": text}:
            print(text, flush=True)
        case {"state": state}:
            record.set_state(record.status(launch).at(RunState(state)))
        case {"end": {"state": state, "reason": reason, "message": message}}:
            end = record.status(launch).ended(
                RunState(state), EndReason(reason), message, ended_at=time.time()
            )
            end = record.end(end)
            events.emit(
                "end",
                state=end.state,
                reason=end.reason,
                message=end.message,
                metrics=end.metrics,
                step=end.step,
            )
            sys.exit(end.reason.exit_code)
        case {"exit": code}:
            os._exit(code)


if __name__ == "__main__":
    main()
