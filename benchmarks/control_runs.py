"""Cost of control as runs queue up: time and memory of ``list`` for 1 to 200 runs and of 20 submissions at once, on both
remote backends, against servers in this process that answer at once. So what is measured is ours: requests, JSON, records.

    python benchmarks/control_runs.py [--runs 1,10,50,200]
"""

import argparse
import json
import os
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fakes"))

from cluster_cases import kubernetes_profile, plan, ray_profile
from control_scale import law
from fake_kubernetes import FakeKubernetes
from fake_ray_jobs import FakeRayJobs

from orchestrator.clusters.kubernetes.cluster import KubernetesCluster
from orchestrator.clusters.ray.cluster import RayJobsCluster
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus

_AT_ONCE = 20
_REPEATS = 5


def measure(name, make_cluster, storage, counts):
    rows = []
    submitted = 0
    for count in counts:
        cluster = make_cluster()
        plans = [
            plan(run_id=f"run-{n:04}-abcdefgh", storage=f"{storage}/runs/run-{n:04}-abcdefgh")
            for n in range(submitted, count)
        ]
        for each in plans:
            cluster.submit(cluster.render(each))
            RunRecord(each.storage).set_state(RunStatus(run_id=each.run_id, state=RunState.RUNNING, launch=1))
        submitted = max(submitted, count)
        assert len(cluster.list()) == count
        seconds = min(_timed(cluster.list) for _ in range(_REPEATS))
        tracemalloc.start()
        cluster.list()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append(
            {
                "backend": name,
                "runs": count,
                "list_ms": seconds * 1e3,
                "ms_a_run": seconds * 1e3 / count,
                "peak_kb": peak / 1e3,
            }
        )
    plans = [
        plan(run_id=f"now-{n:02}-abcdefgh", storage=f"{storage}/runs/now-{n:02}-abcdefgh")
        for n in range(_AT_ONCE)
    ]

    def one(each):
        cluster = make_cluster()
        cluster.submit(cluster.render(each))

    began = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, plans))
    rows.append({"backend": name, "submitted_at_once": _AT_ONCE, "seconds": time.perf_counter() - began})
    return rows


def _timed(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", default="1,10,50,200")
    counts = [int(part) for part in parser.parse_args().runs.split(",")]
    os.environ["RAY_AUTH_TOKEN"] = "right"
    with tempfile.TemporaryDirectory() as folder, FakeRayJobs() as head, FakeKubernetes() as server:
        os.environ["KUBECONFIG"] = str(server.kubeconfig(Path(folder)))
        kubernetes = kubernetes_profile({"storage_claim": "data"}, storage=folder)
        ray = ray_profile(head.url, folder)
        results = measure("ray", lambda: RayJobsCluster(ray), folder, counts)
        results += measure("kubernetes", lambda: KubernetesCluster(kubernetes), folder, counts)
    for row in results:
        print(
            json.dumps(
                {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
            )
        )
    for name in ("ray", "kubernetes"):
        rows = [row for row in results if row["backend"] == name and "runs" in row]
        for figure in ("list_ms", "peak_kb") if len(rows) > 1 else ():
            print(f"{name}: {figure} = {law([(row['runs'], row[figure]) for row in rows])}")


if __name__ == "__main__":
    main()
