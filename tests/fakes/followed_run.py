"""``trainwright run``'s view of a run that does what a test writes into its file: ``followed_run.py FILE``.

Each wish to stop is a line of ``FILE.stops``; the second ends the run.
"""

import json
import sys
import time
from pathlib import Path

from orchestrator.cli.follow import follow
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.profile import ClusterProfile


class FollowedRun:
    id = "digits-abc"
    profile = ClusterProfile(name="local", kind="local", storage="/runs")

    def __init__(self, file):
        self.cluster, self._file, self._stops = self, file, Path(f"{file}.stops")

    def _asked(self):
        return self._stops.read_text().split() if self._stops.exists() else []

    def logs(self, run_id, follow):
        for number, event in enumerate(json.loads(self._file.read_text())):
            yield "@trainwright " + json.dumps({"time": number, **event})
        yield "Traceback (most recent call last):"
        yield '  File "deep.py", line 1'
        yield "ValueError: of a library"
        while len(self._asked()) < 2:
            time.sleep(0.01)

    def stop(self, *, now):
        with self._stops.open("a") as file:
            file.write(f"{'now' if now else 'gracefully'}\n")

    def wait(self, timeout_seconds, *, check):
        start = RunStatus(run_id=self.id, state=RunState.RUNNING)
        return start.ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped at once", ended_at=61.0)


if __name__ == "__main__":
    sys.exit(follow(FollowedRun(Path(sys.argv[1])), json="--json" in sys.argv))
