"""As much of a Ray head's Jobs API as runs need, over real HTTP, without a log stream."""

import json
import platform
import re
import shlex

from programmable_server import Answer, Asked, ProgrammableServer

PYTHON = platform.python_version()


class FakeRayJobs(ProgrammableServer):
    def __init__(self, token="right", ray_version="2.60.0", python_version=PYTHON):
        self.token, self.ray_version, self.python_version = token, ray_version, python_version
        self.jobs = {}
        self.packages = {}
        self.output = {}
        self.run_tool = None
        """What answers a short command of ours on the head: from its arguments to its output."""
        super().__init__()

    def set_job(self, name, **fields):
        with self.lock:
            self.jobs[name] |= fields

    def route(self, asked: Asked) -> Answer:
        given = asked.headers.get("authorization")
        if self.token and given is None:
            return _text(401, "Unauthorized: Missing authentication token")
        if self.token and given != f"Bearer {self.token}":
            return _text(403, "Forbidden: Invalid authentication token")
        if asked.path == "/api/version":
            return Answer(
                body={"version": "4", "ray_version": self.ray_version, "ray_commit": "x", "session_name": "s"}
            )
        if asked.path == "/api/v0/cluster_metadata":
            data = {"rayVersion": self.ray_version, "pythonVersion": self.python_version}
            return Answer(body={"result": True, "msg": "", "data": data})
        with self.lock:
            if match := re.fullmatch(r"/api/packages/gcs/(.+)", asked.path):
                return self._package(match[1], asked)
            if asked.path == "/api/jobs/":
                return (
                    self._submit(asked.json)
                    if asked.method == "POST"
                    else Answer(body=list(self.jobs.values()))
                )
            if match := re.fullmatch(r"/api/jobs/([^/]+)(/stop|/logs)?", asked.path):
                return self._job(match[1], match[2], asked)
        return _text(404, "404: Not Found")

    def _package(self, name, asked):
        if asked.method == "PUT":
            self.packages[name] = asked.body
        return Answer(200 if name in self.packages else 404, b"")

    def _submit(self, body):
        name = body["submission_id"]
        if name in self.jobs:
            trace = f"Traceback (most recent call last):\nValueError: Job with submission_id {name} already exists. Please use a different submission_id."
            return _text(500, f"RuntimeError: Request failed with status code 400: {trace}.")
        assert body["runtime_env"]["working_dir"].removeprefix("gcs://") in self.packages
        assert all(isinstance(value, str) for value in body["metadata"].values())
        self.jobs[name] = {
            "type": "SUBMISSION",
            "submission_id": name,
            "status": "PENDING",
            "message": "Job has not started yet.",
            "entrypoint": body["entrypoint"],
            "metadata": body["metadata"],
            "runtime_env": body["runtime_env"],
            "start_time": 1000 + len(self.jobs),
            "end_time": None,
            "driver_exit_code": None,
        }
        if "trainwright-tool" in body["metadata"]:
            _timeout, _seconds, _python, _m, _module, *arguments = shlex.split(body["entrypoint"])
            self.output[name] = self.run_tool(arguments)
            self.jobs[name] |= {"status": "SUCCEEDED", "driver_exit_code": 0}
        return Answer(body={"job_id": name, "submission_id": name})

    def _job(self, name, what, asked):
        if name not in self.jobs:
            return _text(404, f"Job {name} does not exist")
        job = self.jobs[name]
        if what == "/logs":
            return Answer(body={"logs": self.output.get(name, "")})
        if what == "/stop":
            running = job["status"] in ("PENDING", "RUNNING")
            if running:
                job |= {"status": "STOPPED", "end_time": 9000}
            return Answer(body={"stopped": running})
        if asked.method == "DELETE":
            del self.jobs[name]
            return Answer(body={"deleted": True})
        return Answer(body=json.loads(json.dumps(job)))


def _text(status, text):
    return Answer(status, text.encode(), {"Content-Type": "text/plain"})
