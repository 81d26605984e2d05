"""Cost of control as one run grows, on one machine: the time from submission to the first step, and what the driver and
the workers hold in memory, for 2 to 48 tiny workers; and what a node costs Ray, for 1 to 16 nodes in one process.

    python benchmarks/control_scale.py --workers 2,4,8,16,48
    python benchmarks/control_scale.py --nodes 1,2,4,8,16

The workers train a perceptron of 10 thousand parameters, so that nothing but control is left to measure. On a machine with
fewer cores than workers the time is that of starting so many Python processes, one after the other.
"""

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path


def workers(counts):
    from orchestrator import events, sdk
    from orchestrator.spec.job import JobSpec

    rows = []
    for count in counts:
        job = JobSpec.model_validate(
            {
                "name": "scale",
                "model": {"family": "mlp", "size": "debug"},
                "data": {"train": {"kind": "builtin", "name": "digits"}, "reader": "worker"},
                "training": {"max_steps": 5, "global_batch_size": 48 * 4, "log_every": 1},
                "scaling": {"workers": count, "cpus_per_worker": 0.04},
                "recovery": {"worker_start_timeout": "30m", "hang_timeout": "30m"},
                "tracking": {"kind": "none"},
            }
        )
        began = time.time()
        run = sdk.submit(job, "local")
        times, pids, memory = {}, [], 0.0
        for line in run.cluster.logs(run.id, follow=True):
            event = events.parse(line) or {"event": ""}
            times.setdefault(event["event"], event.get("time", 0.0) - began)
            if event["event"] == "worker":
                pids.append(event["pid"])
            if event["event"] == "metrics":
                memory = max(memory, sum(map(_resident_megabytes, pids)))
        assert run.status().state == "succeeded", run.status().message
        rows.append(
            {
                "workers": count,
                "first_step_seconds": round(times["metrics"], 1),
                "end_seconds": round(times["end"], 1),
                "megabytes_a_worker": round(memory / count),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    _law(rows, "workers", "first_step_seconds")


def nodes(counts):
    import ray
    from ray.cluster_utils import Cluster

    rows = []
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
    try:
        ray.init(address=cluster.address, logging_level="ERROR")
        for count in counts:
            began = time.perf_counter()
            while len(cluster.list_all_nodes()) < count:
                cluster.add_node(num_cpus=1, object_store_memory=80_000_000, wait=False)
            cluster.wait_for_nodes(timeout=600)
            added = time.perf_counter() - began
            asked = min(_timed(ray.nodes) for _ in range(5))
            group_began = time.perf_counter()
            group = ray.util.placement_group([{"CPU": 1}] * count, strategy="SPREAD")
            ray.get(group.ready(), timeout=120)
            placed = time.perf_counter() - group_began
            ray.util.remove_placement_group(group)
            rows.append(
                {
                    "nodes": count,
                    "seconds_to_add": round(added, 1),
                    "list_ms": round(asked * 1e3, 2),
                    "place_a_worker_on_each_ms": round(placed * 1e3),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    _law(rows, "nodes", "place_a_worker_on_each_ms")


def _timed(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _resident_megabytes(pid):
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _law(rows, unit, value):
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        power = math.log(last[value] / first[value]) / math.log(last[unit] / first[unit])
        print(f"{value} grows with {unit} to the power {power:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="")
    parser.add_argument("--nodes", default="")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as home:
        os.environ["TRAINWRIGHT_HOME"] = home
        if options.workers:
            workers([int(part) for part in options.workers.split(",")])
        if options.nodes:
            nodes([int(part) for part in options.nodes.split(",")])


if __name__ == "__main__":
    main()
