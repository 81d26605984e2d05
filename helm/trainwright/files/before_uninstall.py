"""Run before `helm uninstall`: refuse while runs are alive; let go of what the operator alone could remove.

An ended RayJob keeps KubeRay's finalizer, and its Ray cluster the pods of its head. Once the operator is gone nobody
takes either away, and the namespace can't be deleted. The RayJobs themselves stay: they are the record of the runs.

before_uninstall.py NAMESPACE PROFILE
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

ENDED = ("Complete", "Failed", "ValidationFailed")
FINALIZER = "ray.io/rayjob-finalizer"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Api:
    """KubeRay's objects in one namespace, asked for with a bearer token."""

    def __init__(self, server: str, namespace: str, token: str, authority: "Path | None") -> None:
        self.url = f"{server}/apis/ray.io/v1/namespaces/{namespace}"
        self.token = token
        self.context = ssl.create_default_context(cafile=authority) if authority else None

    def call(self, verb: str, path: str, body: "dict | None" = None) -> dict:
        """The object that the server answers; of what is not there, an empty one."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}/{path}", data, method=verb)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", "application/merge-patch+json")
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return {}
            raise


def before_uninstall(api: Api, namespace: str, profile: str) -> str:
    """What was done, in a sentence. Exits with a sentence where runs are alive."""
    rayjobs = api.call("GET", "rayjobs").get("items") or []
    alive = [job for job in rayjobs if (job.get("status") or {}).get("jobDeploymentStatus") not in ENDED]
    if alive:
        names = [job["metadata"]["name"] for job in alive]
        runs = [(job["metadata"].get("annotations") or {}).get("trainwright/run-id") for job in alive]
        stops = "; ".join(f"trainwright stop {run} --cluster {profile}" for run in runs if run)
        sys.exit(
            f"{len(alive)} of {len(rayjobs)} RayJobs in {namespace} have not ended and would be cut off: {', '.join(names)}."
            + (f" Save and end them with: {stops}." if stops else "")
            + f" Or end them unsaved: kubectl delete rayjobs {' '.join(names)} -n {namespace}. Then uninstall again;"
            " helm uninstall --no-hooks doesn't look."
        )
    for job in rayjobs:
        if cluster := (job.get("status") or {}).get("rayClusterName"):
            api.call("DELETE", f"rayclusters/{cluster}")
        kept = job["metadata"].get("finalizers") or []
        if FINALIZER in kept:
            left = [finalizer for finalizer in kept if finalizer != FINALIZER]
            api.call("PATCH", f"rayjobs/{job['metadata']['name']}", {"metadata": {"finalizers": left}})
    return f"no run is alive in {namespace}; {len(rayjobs)} ended RayJobs stay, without a finalizer"


def main() -> None:
    """As the pod's ServiceAccount, on the API server that pods are told of."""
    namespace, profile = sys.argv[1:]
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    token = (ACCOUNT / "token").read_text()
    print(
        before_uninstall(
            Api(f"https://{host}:{port}", namespace, token, ACCOUNT / "ca.crt"), namespace, profile
        )
    )


if __name__ == "__main__":
    main()
