"""Every place where runs run, behind one set of things that a test makes happen there: what a driver says and how it ends.

Local runs are real processes with ``stand_in_driver`` in the driver's place; Ray and Kubernetes are real HTTP servers
that stand for theirs.
"""

import json
import os
import select
import socket
import uuid
from pathlib import Path

from cluster_cases import kubernetes_profile, plan, ray_profile
from fake_kubernetes import FakeKubernetes
from fake_ray_jobs import FakeRayJobs

from orchestrator.clusters import open_cluster
from orchestrator.clusters.local.cluster import LocalCluster
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.clusters.shared.record_tool import answer
from orchestrator.clusters.shared.safe_names import submission_id
from orchestrator.clusters.shared.stores import ANSWER_MARK
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import store_at

RUN = "digits-abcdefgh"
SAID_BY_EXIT_CODE = {
    2: EndReason.BAD_SPEC,
    3: EndReason.USER_ERROR,
    4: EndReason.INFRASTRUCTURE,
    5: EndReason.STOPPED_BY_USER,
}
_PATIENCE_SECONDS = 60


class Place:
    """What all have in common. A launch is named by its number; the run is ``RUN``."""

    storage: Path
    """As plans name it."""
    base_dir: Path
    waits_without_driver = frozenset({"queue"})
    """Parts of the ledger that can be told of a launch that never had a driver."""

    def cluster(self):
        return open_cluster(self.profile)

    def plan(self, run_id=RUN, **sections):
        return plan(run_id=run_id, base_dir=self.base_dir, storage=self.storage / "runs" / run_id, **sections)

    def runs(self, launch=1, *, step=10, metrics=None):
        """The driver lives, and says that its workers took steps."""
        self.starts(launch)
        self.prints(
            _event("attempt", attempt=1, launch=launch, start_step=0, total_steps=100),
            _event("metrics", step=step, attempt=1, values=metrics or {}),
            launch=launch,
        )

    def waits(self, launch=1):
        """It begins with a launch, as far as it can without a driver."""

    def may_begin(self, launch=1):
        """Whether a launch that the place has been sent has all that its driver needs."""
        return True

    def fails(self, launch=1):
        self.ends(RunState.FAILED, EndReason.INFRASTRUCTURE, "the network failed", launch)


class Local(Place):
    def __init__(self, folder, monkeypatch):
        self.storage = self.base_dir = folder
        self.profile = ClusterProfile(name="local", kind="local", storage=str(folder))
        self._listener = socket.socket(socket.AF_UNIX)
        self._address = f"trainwright-{uuid.uuid4().hex}"
        self._listener.bind(f"\0{self._address}")
        self._listener.listen()
        self._listener.settimeout(_PATIENCE_SECONDS)
        self._drivers = {}

    def cluster(self):
        script = Path(__file__).with_name("stand_in_driver.py")
        return LocalCluster(self.profile, driver=[str(script), self._address])

    def starts(self, launch=1):
        RunRecord(str(self.storage / "runs" / RUN)).taken_over(launch)
        self._order(launch, state="starting")

    def prints(self, *lines, launch=1):
        for line in lines:
            self._order(launch, print=line)

    def rank_prints(self, rank, *lines):
        _write_rank_log(self.storage, rank, lines)

    def ends(self, state, reason, message, launch=1):
        self._tell(launch, end={"state": state, "reason": reason, "message": message})
        self._wait_until_gone(launch)

    def exits(self, code, launch=1):
        self._tell(launch, exit=code)
        self._wait_until_gone(launch)

    def reason_of_exit(self, code):
        return EndReason.DRIVER_LOST  # nobody that outlives the submit is told how it exited

    def launches(self, run_id=RUN):
        return len(list((self.storage / "runs" / run_id / "launches").glob("*/process.json")))

    def was_asked_to_stop(self):
        return RunRecord(str(self.storage / "runs" / RUN)).stop_was_asked(1)

    def is_alive(self):
        return self._process(1).pid is not None

    def ends_by_stop(self, launch=1):
        self._wait_until_gone(launch)

    def has_been_asked_nothing(self):
        return not any(self.storage.iterdir())

    def close(self):
        for launch in self.storage.glob("runs/*/launches/*"):
            DriverProcess(store_at(str(launch.parent.parent)), f"launches/{launch.name}").kill()
        for connection, stream in self._drivers.values():
            stream.close()
            connection.close()
        self._listener.close()

    def _folder(self, launch):
        return self.storage / "runs" / RUN / "launches" / str(launch)

    def _process(self, launch):
        return DriverProcess(store_at(str(self.storage / "runs" / RUN)), f"launches/{launch}")

    def _driver(self, launch):
        while (RUN, launch) not in self._drivers:
            connection, _ = self._listener.accept()
            connection.settimeout(_PATIENCE_SECONDS)
            stream = connection.makefile("rw")
            hello = json.loads(stream.readline())
            self._drivers[hello["run"], hello["launch"]] = connection, stream
        return self._drivers[RUN, launch][1]

    def _tell(self, launch, **order):
        print(json.dumps(order), file=self._driver(launch), flush=True)

    def _order(self, launch, **order):
        self._tell(launch, **order)
        assert self._driver(launch).readline() == "done\n", f"the driver did not do {order}"

    def _wait_until_gone(self, launch):
        try:
            process = os.pidfd_open(json.loads((self._folder(launch) / "process.json").read_text())["pid"])
        except ProcessLookupError:
            return
        try:
            assert select.select([process], [], [], _PATIENCE_SECONDS)[0], "the driver did not end"
        finally:
            os.close(process)


class Ray(Place):
    """A Ray cluster whose storage is mounted here: the run's records are read directly."""

    waits_without_driver = frozenset({"environment"})

    def __init__(self, folder, monkeypatch):
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        self.server = FakeRayJobs()
        self.base_dir = folder
        self._files = folder / "storage"
        self._files.mkdir()
        self.storage = self._files
        groups = [{"name": "cpu", "cpus": 8, "memory": "32GB", "max": 4}]
        self.profile = ray_profile(self.server.url, self.storage, node_groups=groups)

    def starts(self, launch=1):
        self.server.set_job(submission_id(RUN, launch), status="RUNNING")
        self._record().taken_over(launch)
        self._record().set_state(RunStatus(run_id=RUN, launch=launch, state=RunState.STARTING))

    def prints(self, *lines, launch=1):
        job = submission_id(RUN, launch)
        self.server.output[job] = self.server.output.get(job, "") + "".join(f"{line}\n" for line in lines)

    def rank_prints(self, rank, *lines):
        _write_rank_log(self._files, rank, lines)

    def ends(self, state, reason, message, launch=1):
        status = RunStatus(run_id=RUN, launch=launch, state=RunState.STARTING)
        self._record().end(status.ended(state, reason, message, ended_at=5.0))
        self.prints(_end(state, reason, message), launch=launch)
        self.exits(reason.exit_code, launch)

    def exits(self, code, launch=1):
        status = "FAILED" if code else "SUCCEEDED"
        self.server.set_job(
            submission_id(RUN, launch), status=status, driver_exit_code=code, message="exit", end_time=7000
        )

    def reason_of_exit(self, code):
        return EndReason.DRIVER_LOST  # one that could still speak would have written its end in the record

    def launches(self, run_id=RUN):
        return sum(job["metadata"].get("run") == run_id for job in self.server.jobs.values())

    def was_asked_to_stop(self):
        return self._record().stop_was_asked(1)

    def is_alive(self):
        return self.server.jobs[RUN]["status"] == "RUNNING"

    def ends_by_stop(self, launch=1):
        assert self.server.jobs[submission_id(RUN, launch)]["status"] == "STOPPED"

    def has_been_asked_nothing(self):
        return self.server.asked == []

    def close(self):
        self.server.close()

    def _record(self):
        return RunRecord(str(self._files / "runs" / RUN))


class DistantRay(Ray):
    """A Ray cluster whose storage only its nodes reach: jobs on the head read and write the run's records."""

    def __init__(self, folder, monkeypatch):
        super().__init__(folder, monkeypatch)
        self.storage = Path("/on/the/cluster")
        self.profile = self.profile.model_copy(update={"storage": str(self.storage)})
        self.server.run_tool = self._run_tool

    def reason_of_exit(self, code):
        return SAID_BY_EXIT_CODE.get(code, EndReason.DRIVER_LOST)

    def _run_tool(self, arguments):
        here = [word.replace(str(self.storage), str(self._files)) for word in arguments]
        return ANSWER_MARK + json.dumps(answer(here))


class Kubernetes(Place):
    """A cluster whose storage is a claim that only pods mount."""

    waits_without_driver = frozenset({"queue", "image"})

    def __init__(self, folder, monkeypatch):
        self.server = FakeKubernetes()
        monkeypatch.setenv("KUBECONFIG", str(self.server.kubeconfig(folder)))
        self.storage, self.base_dir = folder / "claim", folder
        self.storage.mkdir()
        self.profile = kubernetes_profile({"storage_claim": "data"}, storage=str(self.storage))
        # a command in a pod that mounts the claim; as a process of its own it would take a second to start
        self.server.answers[answer.__module__] = lambda words: f"{ANSWER_MARK}{json.dumps(answer(words))}\n"

    def waits(self, launch=1):
        """The head's image is pulled."""
        job = submission_id(RUN, launch)
        has_node = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T03:04:35Z"}
        self._put_head(job, {"phase": "Pending", "conditions": [has_node]})
        self.server.set_status(job, jobDeploymentStatus="Initializing", rayClusterName=f"{job}-x1")

    def _put_head(self, job, status):
        labels = {"ray.io/cluster": f"{job}-x1", "ray.io/node-type": "head"}
        self.server.put("pods", {"metadata": {"name": f"{job}-head", "labels": labels}, "status": status})

    def starts(self, launch=1):
        job = submission_id(RUN, launch)
        self._put_head(job, {"phase": "Running"})
        self.server.set_status(
            job, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{job}-x1"
        )

    def prints(self, *lines, launch=1):
        self._log(launch).extend(lines)

    def rank_prints(self, rank, *lines):
        self._log(1).extend(f"@rank 1 {rank} {line}" for line in lines)

    def ends(self, state, reason, message, launch=1):
        self.prints(_end(state, reason, message), launch=launch)
        self.exits(reason.exit_code, launch)

    def exits(self, code, launch=1):
        said = f"Job entrypoint command failed with exit code {code}, last available logs:\nexit"
        ended = {"endTime": "2026-01-02T03:05:05Z"}
        if code:
            ended |= {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
            ended |= {"message": said}
        else:
            ended |= {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        self.server.set_status(submission_id(RUN, launch), **ended)

    def reason_of_exit(self, code):
        return SAID_BY_EXIT_CODE.get(code, EndReason.DRIVER_LOST)

    def launches(self, run_id=RUN):
        jobs = self.server.objects["rayjobs"].values()
        return sum(job["metadata"]["annotations"]["trainwright/run-id"] == run_id for job in jobs)

    def may_begin(self, launch=1):
        """Its pods wait for the ConfigMap that they mount."""
        return submission_id(RUN, launch) in self.server.objects["configmaps"]

    def was_asked_to_stop(self):
        return "stop-1" in self.server.objects["configmaps"][RUN]["data"]

    def is_alive(self):
        return "activeDeadlineSeconds" not in self.server.objects["rayjobs"][RUN]["spec"]

    def ends_by_stop(self, launch=1):
        job = submission_id(RUN, launch)
        assert self.server.objects["rayjobs"][job]["spec"]["activeDeadlineSeconds"] == 1
        self.server.objects["pods"].pop(f"{job}-head", None)
        self.server.set_status(job, jobDeploymentStatus="Failed", reason="DeadlineExceeded")

    def has_been_asked_nothing(self):
        return self.server.asked == []

    def close(self):
        self.server.close()

    def _log(self, launch):
        return self.server.logs.setdefault((f"{submission_id(RUN, launch)}-head", "run-log"), [])


PLACES = {"local": Local, "ray": Ray, "distant-ray": DistantRay, "kubernetes": Kubernetes}


def _event(name, **fields):
    return "@trainwright " + json.dumps({"event": name, "time": 5.0, **fields})


def _end(state, reason, message):
    return _event("end", state=state, reason=reason, message=message, metrics={}, step=10)


def _write_rank_log(storage, rank, lines):
    path = storage / "runs" / RUN / "logs" / "attempt-1" / f"rank-{rank}.log"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{line}\n" for line in lines))
