"""Beside the head of a run on Kubernetes: shows the run's log, keeps it, and passes a wish to stop on.

``python -m orchestrator.clusters.kubernetes.run_log --plan FILE --launch N`` prints what the driver prints, as it comes, so that
``kubectl logs`` and the right to read pod logs are all that a person needs. Where the storage is a path, which a
client outside the cluster does not reach, it also prints each worker's log, every line behind ``@rank ATTEMPT RANK``.
It ends at once, with a sentence, where the image is of another version than the client's.
It copies the driver's log into the run's records, so that it outlives the pod; a head that was replaced goes on behind what the
ones before it have left there, and prints that first, every line behind ``@earlier``. When the run's ConfigMap gets the key
``stop-N``, it writes the stop request into the records for a client that can't. When the pod is told to end, it tells the driver,
whose own first process passes no signal on, and goes on until the run has ended or the pod's grace is over.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator import events
from orchestrator.clusters.shared.log_lines import GrowingFile
from orchestrator.clusters.shared.run_records import storage_record
from orchestrator.clusters.shared.safe_names import submission_id
from orchestrator.errors import InfrastructureError
from orchestrator.planning.plan import Plan
from orchestrator.records import driver_log_name
from orchestrator.storage import is_uri
from orchestrator.waited import name_of_pod

_RANK_LINE = re.compile(r"@rank (\d+) (\d+) (.*)", re.DOTALL)
EARLIER = "@earlier "
"""What stands before a line that an earlier head of the launch has printed."""
_LOOK_SECONDS = 1.0
_COPY_SECONDS = 30.0


def rank_line(attempt: int, rank: int, line: str) -> str:
    """A worker's line, marked."""
    return f"@rank {attempt} {rank} {line}"


def parse_rank_line(line: str) -> tuple[int, int, str] | None:
    """Attempt, rank and line of a marked line, or None where it is the driver's."""
    match = _RANK_LINE.match(line)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def tells_end(line: str) -> bool:
    """Whether the driver tells the run's end by it."""
    event = events.parse(line)
    return event is not None and event["event"] == "end"


class News:
    """Of what the heads of one launch print one after the other, what was not told before: a later head repeats the lines of
    the driver that it finds kept, marked, and each worker's from its start.
    """

    def __init__(self) -> None:
        self._is_first = True
        self._told: Counter[tuple[int, int]] = Counter()

    def of_a_head(self, lines: Iterable[str]) -> Iterator[str]:
        """A head's lines without those."""
        is_first, self._is_first = self._is_first, False
        seen: Counter[tuple[int, int]] = Counter()
        for line in lines:
            marked = parse_rank_line(line)
            if marked is None:
                if is_first or not line.startswith(EARLIER):
                    yield line
                continue
            worker = marked[:2]
            seen[worker] += 1
            if seen[worker] > self._told[worker]:
                self._told[worker] = seen[worker]
                yield line


def version_problem(plan: str) -> str | None:
    """Why this installation, the image's, can't run a plan of a client's (as JSON); None where it can."""
    made_by = str(json.loads(plan).get("version"))
    if made_by.split(".")[:2] == orchestrator.__version__.split(".")[:2]:
        return None
    return (
        f"the image has trainwright {orchestrator.__version__}, but the plan was made by {made_by}; set image of the"
        f" profile to one with {made_by}, or install the image's version on the client"
    )


class RunLog:
    """One launch's log.

    Args:
        plan: The run's plan.
        launch: The launch.
        ray_logs: Folder of Ray's log files.
        run_folder: Where the run's ConfigMap is mounted.
    """

    def __init__(self, plan: Plan, launch: int, ray_logs: Path, run_folder: Path) -> None:
        self._launch = launch
        self._driver = GrowingFile(ray_logs / f"job-driver-{submission_id(plan.run_id, launch)}.log")
        self._workers_at = None if is_uri(plan.storage) else Path(plan.storage, "logs")
        self._workers: dict[Path, GrowingFile] = {}
        self._stop = run_folder / f"stop-{launch}"
        self._record = storage_record(plan.storage)
        self._earlier = b""
        self._copied_bytes = 0
        self._stop_is_passed_on = False
        self.has_ended = False
        """Whether the driver has told the run's end."""

    def earlier(self) -> list[str]:
        """Lines of the launch's heads before this one, marked; asked for first of all."""
        self._earlier = self._kept()
        return [EARLIER + line for line in self._earlier.decode(errors="replace").splitlines()]

    def look(self) -> list[str]:
        """New lines of the driver and the workers."""
        if not self._stop_is_passed_on and self._stop.exists():
            self._record.ask_to_stop(self._launch)
            self._stop_is_passed_on = True
        lines = self._driver.new_lines()
        self.has_ended |= any(map(tells_end, lines))
        for path in sorted(self._workers_at.glob("attempt-*/rank-*.log")) if self._workers_at else ():
            followed = self._workers.setdefault(path, GrowingFile(path))
            attempt, rank = (int(part.rpartition("-")[2]) for part in (path.parent.name, path.stem))
            lines += [rank_line(attempt, rank, line) for line in followed.new_lines()]
        return lines

    def tell_that_head_leaves(self, pod: str) -> None:
        """To the drivers in this pod, the one that is there and any that takes its place."""
        self._record.tell_that_head_leaves(self._launch, pod)

    def copy(self) -> None:
        """The driver's log so far into the run's records."""
        try:
            content = self._driver.path.read_bytes()
        except OSError:
            return
        if len(content) < self._copied_bytes:  # the head's container was started again in its pod
            self._earlier = self._kept()
        if len(content) != self._copied_bytes:
            self._record.store.write(driver_log_name(self._launch), self._earlier + content)
            self._copied_bytes = len(content)

    def _kept(self) -> bytes:
        kept = self._record.whole_log(driver_log_name(self._launch))
        return kept if not kept or kept.endswith(b"\n") else kept + b"\n"


def main(arguments: list[str] | None = None) -> None:
    """Show the log until the pod ends."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.clusters.kubernetes.run_log")
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--launch", required=True, type=int)
    parser.add_argument("--ray-logs", default=Path("/tmp/ray/session_latest/logs"), type=Path)
    options = parser.parse_args(arguments)
    content = options.plan.read_text(encoding="utf-8")
    if problem := version_problem(content):
        sys.exit(problem)
    plan = Plan.model_validate_json(content)
    log = RunLog(plan, options.launch, options.ray_logs, options.plan.parent)
    ending = threading.Event()

    def end(number: int, frame: Any) -> None:
        ending.set()

    signal.signal(signal.SIGTERM, end)
    next_copy = time.monotonic() + _COPY_SECONDS
    _print(log.earlier())
    is_told = False
    while True:
        is_ending = ending.is_set()
        is_last = False
        try:
            _print(log.look())
            is_last = is_ending and log.has_ended
            if is_ending and not is_last and not is_told:
                log.tell_that_head_leaves(name_of_pod(options.plan))
                is_told = True
            if is_ending or time.monotonic() >= next_copy:
                next_copy = time.monotonic() + _COPY_SECONDS
                log.copy()
        except InfrastructureError as error:
            # the storage's trouble is the run's to tell; this one only must not stop showing the log
            sys.stderr.write(f"{error}\n")
        if is_last:
            return
        if is_ending:
            time.sleep(_LOOK_SECONDS)
        else:
            ending.wait(_LOOK_SECONDS)


def _print(lines: list[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
