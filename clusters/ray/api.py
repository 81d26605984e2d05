"""Ray's job submission client with time limits, retries after the table in ``patience``, and one-sentence errors."""

from __future__ import annotations

import asyncio
import json
import logging
import platform
import time
from collections.abc import AsyncGenerator, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from orchestrator.clusters.ray.token import WHERE, find_token
from orchestrator.clusters.shared.connection import connection_problem
from orchestrator.clusters.shared.patience import Patience, retry_after_seconds, worth_another_try
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError
from orchestrator.spec.profile import ClusterProfile

_CONNECT_SECONDS = 5.0
_HEAD_START_SECONDS = 120.0
"""How long a head that has just started may answer "No available agent" to a submission."""
_NO_AGENT = "No available agent"
_ALREADY_THERE = "already exists"


class RayClient:
    """One Ray cluster's Jobs API. Connects on the first call.

    Raises, from every method: InfrastructureError where the cluster does not answer or refuses (with the mend);
    NotFoundError where it has no such job.
    """

    def __init__(
        self, profile: ClusterProfile, patience: Patience | None = None, read_seconds: float = 60.0
    ) -> None:
        self.profile = profile
        self._patience = patience or Patience()
        self._read_seconds = read_seconds
        self._jobs: Any = None

    def versions(self) -> dict[str, str]:
        """``ray`` and ``python`` of the cluster."""
        ray_version = self._json("GET", "/api/version").get("ray_version", "")
        facts = self._json("GET", "/api/v0/cluster_metadata").get("data", {})
        return {"ray": ray_version, "python": facts.get("pythonVersion") or facts.get("python_version") or ""}

    def check_versions(self) -> None:
        """Refuse a cluster whose Ray or Python can't run what this client sends. Raises SpecError."""
        found = self.versions()
        import ray

        here = {"ray": ray.__version__, "python": platform.python_version()}
        for what in ("ray", "python"):
            if found[what] and found[what].split(".")[:2] != here[what].split(".")[:2]:
                raise SpecError(
                    f"cluster {self.profile.name} runs {what.capitalize()} {found[what]}, this client {here[what]};"
                    f" both must be of the same minor version: use an environment with {what.capitalize()}"
                    f" {found[what]}, or upgrade the cluster"
                )

    def submit(
        self,
        *,
        submission_id: str,
        entrypoint: str,
        package: bytes,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
    ) -> bool:
        """Start a job once, whatever number of calls or clients ask for it.

        Args:
            submission_id: The job's fixed id.
            entrypoint: Shell command.
            package: Zip file that becomes the working directory.
            runtime_env: The rest of Ray's runtime environment.
            metadata: Stored with the job.

        Returns:
            Whether this call started it; False where it was there already.
        """
        patience = self._patience.for_at_least(_HEAD_START_SECONDS)
        uri = self._upload(package, patience)
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": {**runtime_env, "working_dir": uri},
            "metadata": metadata,
        }
        status, text = self._request("POST", "/api/jobs/", json_data=body, patience=patience)
        if status == 200:
            return True
        if _ALREADY_THERE in text and submission_id in text:
            return False
        raise self._refusal("submit the job", status, text)

    def info(self, submission_id: str) -> dict[str, Any]:
        """Status, message, metadata, times of a job."""
        return self._json("GET", f"/api/jobs/{submission_id}")

    def list(self) -> list[dict[str, Any]]:
        """All jobs that were submitted to the cluster."""
        jobs = self._json("GET", "/api/jobs/")
        return [job for job in jobs if job.get("type") == "SUBMISSION"]

    def stop(self, submission_id: str) -> None:
        """End a job now. Idempotent."""
        self._json("POST", f"/api/jobs/{submission_id}/stop")

    def delete(self, submission_id: str) -> None:
        """Forget an ended job."""
        self._json("DELETE", f"/api/jobs/{submission_id}")

    def logs(self, submission_id: str) -> str:
        """All output of a job so far."""
        return str(self._json("GET", f"/api/jobs/{submission_id}/logs").get("logs") or "")

    def follow(self, submission_id: str) -> Iterator[str]:
        """Pieces of a job's output until it has ended; a dropped connection is taken up where it broke."""
        seen = 0
        for attempt in self._patience.tries():
            skip = seen
            loop = asyncio.new_event_loop()
            stream: AsyncGenerator[str, None] = self._client().tail_job_logs(submission_id)
            try:
                while True:
                    try:
                        piece = loop.run_until_complete(anext(stream))
                    except StopAsyncIteration:
                        self._wait_for_end(submission_id)
                        return
                    new = piece[skip:]
                    skip -= len(piece) - len(new)
                    if new:
                        seen += len(new)
                        yield new
            except Exception as error:
                if self.has_ended(submission_id):
                    yield self.logs(submission_id)[seen:]
                    return
                if attempt.is_last:
                    raise InfrastructureError(
                        f"cluster {self.profile.name}: the log stream of {submission_id} broke:"
                        f" {_first_line(str(error)) or type(error).__name__}"
                    ) from None
            finally:
                loop.run_until_complete(stream.aclose())
                loop.close()

    def clock_ahead_seconds(self) -> float:
        """How far the head's clock is ahead of ours, to the second that HTTP tells."""
        answer = self._client()._do_request(
            "GET", "/api/version", timeout=(_CONNECT_SECONDS, self._read_seconds)
        )
        there = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        return there - (time.time() - answer.elapsed.total_seconds() / 2)

    def has_ended(self, submission_id: str) -> bool:
        """Whether nothing can follow in a job."""
        return self.info(submission_id)["status"] in ("STOPPED", "SUCCEEDED", "FAILED")

    def _wait_for_end(self, submission_id: str) -> None:
        """Ray's word for an end comes a moment after the output's."""
        for attempt in self._patience.tries():
            if self.has_ended(submission_id) or attempt.is_last:
                return

    def _upload(self, package: bytes, patience: Patience) -> str:
        import hashlib

        name = f"_ray_pkg_{hashlib.sha256(package).hexdigest()[:40]}.zip"
        status, text = self._request("GET", f"/api/packages/gcs/{name}")
        if status == 404:
            status, text = self._request("PUT", f"/api/packages/gcs/{name}", data=package, patience=patience)
        if status != 200:
            raise self._refusal("upload the package", status, text)
        return f"gcs://{name}"

    def _json(self, method: str, path: str) -> Any:
        status, text = self._request(method, path)
        if status == 404:
            raise NotFoundError(f"cluster {self.profile.name}: {_first_line(text) or path}")
        if status != 200:
            raise self._refusal(f"answer {path}", status, text)
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise InfrastructureError(
                f"cluster {self.profile.name}: {self.profile.address}{path} answered with"
                f" {'a web page' if '<html' in text[:500].lower() else 'something'} that is no JSON;"
                " address must be Ray's dashboard, not a proxy or login page in front of it"
            ) from None

    def _request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        json_data: Any = None,
        patience: Patience | None = None,
    ) -> tuple[int, str]:
        """Status and text of an answer, after the retries that the table allows."""
        import requests

        try:
            from ray.exceptions import AuthenticationError
        except ModuleNotFoundError:
            raise InfrastructureError(
                f"cluster {self.profile.name}: a Ray cluster is asked by Ray's own client, which is not installed here;"
                " pip install 'trainwright[train]'"
            ) from None

        client = self._client()
        problem = ""
        for attempt in (patience or self._patience).tries():
            try:
                response = client._do_request(
                    method,
                    path,
                    data=data,
                    json_data=json_data,
                    timeout=(_CONNECT_SECONDS, self._read_seconds),
                )
                status, text = response.status_code, response.text
            except AuthenticationError as error:
                raise self._not_let_in(error) from None
            except requests.exceptions.RequestException as error:
                status, text, response = 0, "", None
                problem = connection_problem(error)
            again = (
                worth_another_try(status, is_read=method == "GET", is_starting=_NO_AGENT in text)
                and _ALREADY_THERE not in text
            )
            if not again or attempt.is_last:
                break
            if response is not None:
                attempt.retry_after_seconds = retry_after_seconds(response.headers.get("Retry-After"))
        if status == 0:
            raise InfrastructureError(
                f"cluster {self.profile.name}: {self.profile.address} does not answer ({problem});"
                " check address, network and that the head runs"
            )
        return status, text

    def _client(self) -> Any:
        if self._jobs is None:
            from ray.dashboard.modules.dashboard_sdk import SubmissionClient
            from ray.job_submission import JobSubmissionClient

            class Client(JobSubmissionClient):
                """Takes address and token as they are. Ray's own constructor lets RAY_ADDRESS override the one, and
                adds the token of a cluster that this process was in before where the other is missing.
                """

                def __init__(self, address: str, headers: dict[str, str]) -> None:
                    SubmissionClient.__init__(self, address=address, headers={"Authorization": "", **headers})
                    self._headers = headers

            # its log stream says on every end that it ended
            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
            address = str(self.profile.address).rstrip("/")
            token = find_token(self.profile)
            self._jobs = Client(address, {"Authorization": f"Bearer {token}"} if token else {})
        return self._jobs

    def _not_let_in(self, error: Exception) -> InfrastructureError:
        if "Authentication required" in str(error):
            return InfrastructureError(
                f"cluster {self.profile.name} asks for a token and none was found in {WHERE}"
            )
        return InfrastructureError(
            f"cluster {self.profile.name} refuses the token found in {WHERE}; ask for the cluster's current one"
        )

    def _refusal(self, action: str, status: int, text: str) -> InfrastructureError:
        lines = [line for line in text.strip().splitlines() if line.strip()]
        if status == 413:
            return InfrastructureError(
                f"cluster {self.profile.name}: the package is larger than its proxy lets through"
            )
        reason = lines[-1].strip() if lines and "<html" not in text[:500].lower() else ""
        return InfrastructureError(
            f"cluster {self.profile.name} can't {action}: HTTP {status}{f': {reason[:300]}' if reason else ''}"
        )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:300]
