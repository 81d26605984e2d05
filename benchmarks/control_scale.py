"""Cost of control as a run grows, on one machine, each point in a process of its own:

    python benchmarks/control_scale.py --workers 2,4,8,16,32,48     tiny workers that only start, wait and end
    python benchmarks/control_scale.py --actors 2,8,16,32,48        bare Ray actors that are polled as a controller does
    python benchmarks/control_scale.py --deaths 100,1000            ranks that beat, one of whose processes is killed
    python benchmarks/control_scale.py --nodes 1,2,4,8,16           Ray nodes on this machine
    python benchmarks/control_scale.py --training 2,4,8             whole runs: a perceptron of 10 thousand parameters

Tiny workers are started as a run's are (Ray Train's controller, a placement group, one process each) but import no
PyTorch, so that nothing but control is left: seconds until all of them have begun, and what the controller, Ray's
control store (GCS) and the raylet use meanwhile and while the workers wait. On a machine with fewer cores than workers
the time is that of starting so many Python processes, one after the other; the CPU seconds of the controller and of the
GCS are what one machine has to bear however many nodes share the rest.
"""

import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import psutil

_WATCHED_SECONDS = 10.0
_LEAST_PROCESSES, _KILLED = 6, 10
_CENTRAL = {"controller": "ray::TrainController", "gcs": "gcs_server", "raylet": "raylet/raylet"}
_WORKER = "ray::RayTrainWorker"
_AS_THE_DRIVER = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def tiny_workers(count):
    """One point: ``count`` workers that do nothing."""
    os.environ |= _AS_THE_DRIVER
    import ray
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    with tempfile.TemporaryDirectory(prefix="tw", dir="/tmp") as folder:
        _start_ray(ray, folder, count + 1)

        def wait_for_the_word(config):
            rank = ray.train.get_context().get_world_rank()
            Path(config["folder"], f"begun-{rank}").touch()
            while not Path(config["folder"], "go").exists():
                time.sleep(0.5)

        row = {"workers": count}
        began = time.perf_counter()

        def watch():
            while len(list(Path(folder).glob("begun-*"))) < count:
                time.sleep(0.05)
            row["start_s"] = round(time.perf_counter() - began, 1)
            started = _cpu_seconds()
            time.sleep(_WATCHED_SECONDS)
            waited = _cpu_seconds()
            row["start_cpu_s"] = {name: round(started[name], 2) for name in _CENTRAL}
            row["waiting_cpu_ms_per_s"] = {
                name: round((waited[name] - started[name]) / _WATCHED_SECONDS * 1e3, 1) for name in _CENTRAL
            }
            row["mb"] = {name: round(_memory_mb(part)) for name, part in _CENTRAL.items()}
            row["mb_a_worker"] = round(_memory_mb(_WORKER) / count)
            row["ended_at"] = time.perf_counter()
            Path(folder, "go").touch()

        class Trainer(DataParallelTrainer):
            """As the driver's on a private Ray instance: without the cleaner that asks a dashboard."""

            def _create_default_callbacks(self):
                made = super()._create_default_callbacks()
                return [each for each in made if type(each).__name__ != "PlacementGroupCleanerCallback"]

        watcher = threading.Thread(target=watch)
        watcher.start()
        Trainer(
            wait_for_the_word,
            train_loop_config={"folder": folder},
            scaling_config=ScalingConfig(num_workers=count, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name="tiny", storage_path=folder, logging_config=LoggingConfig(log_level="WARNING")
            ),
        ).fit()
        watcher.join()
        row["end_s"] = round(time.perf_counter() - row.pop("ended_at"), 1)
        ray.shutdown()
    return row


def actors(count):
    """One point: ``count`` actors without Ray Train, the smallest processes that Ray can start, asked five times a second."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    class Idle:
        def answer(self):
            return True

    with tempfile.TemporaryDirectory(prefix="tw", dir="/tmp") as folder:
        _start_ray(ray, folder, count + 1)
        group = ray.util.placement_group([{"CPU": 1}] * count)
        began = time.perf_counter()
        place = PlacementGroupSchedulingStrategy(group)
        idle = [
            ray.remote(Idle).options(num_cpus=1, scheduling_strategy=place).remote() for _ in range(count)
        ]
        ray.get([each.answer.remote() for each in idle])
        seconds = time.perf_counter() - began
        started, own, polls = _cpu_seconds(), time.process_time(), 0
        until = time.perf_counter() + _WATCHED_SECONDS
        while time.perf_counter() < until:
            ray.get([each.answer.remote() for each in idle])
            polls += 1
            time.sleep(0.2)
        asked = _cpu_seconds()
        row = {
            "actors": count,
            "start_s": round(seconds, 1),
            "start_cpu_s": {name: round(started[name], 2) for name in ("gcs", "raylet")},
            "poll_cpu_ms": {
                "caller": round((time.process_time() - own) / polls * 1e3, 2),
                **{name: round((asked[name] - started[name]) / polls * 1e3, 2) for name in ("gcs", "raylet")},
            },
            "mb": {name: round(_memory_mb(_CENTRAL[name])) for name in ("gcs", "raylet")},
            "mb_an_actor": round(_memory_mb("ray::Idle") / count),
        }
        ray.shutdown()
    return row


def deaths(count):
    """One point: ``count`` ranks with their beats under the run's own polls and hang watch, and kills of a process of theirs.

    Several ranks share a process, since a machine has no room for a thousand. What is one a rank is the controller's part:
    each is asked by a call of its own, answers for itself, and its beat is followed.
    """
    import ray
    from ray.train.v2._internal.execution.worker_group import WorkerGroup
    from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus

    from orchestrator.hang_watch import HangWatch
    from orchestrator.ray_settings import seconds_between_polls
    from orchestrator.recovery.beats import heart

    class Ranks:
        def __init__(self):
            threading.Thread(target=self._train, daemon=True).start()

        def _train(self):
            heart.begins(1)
            while True:
                heart.passes("a step")
                time.sleep(0.05)

        def pid(self):
            return os.getpid()

        def poll_status(self):
            status = WorkerStatus(running=True, error=None, training_report=None)
            status.beat = heart.beat
            return status

    class Group(WorkerGroup):
        """Polls as Ray Train's; started otherwise."""

        def __init__(self, actors):
            self._world_rank_to_ongoing_poll, self._worker_health_check_timeout_s = {}, 600.0
            self._worker_rank_to_replica_group_rank = None
            self._callbacks = [HangWatch(60.0, keep=str)]
            self._callbacks[0].after_worker_group_training_start(self)
            self._actors = actors

        def _assert_active(self):
            pass

        def get_workers(self):
            return [
                types.SimpleNamespace(actor=self._actors[rank % len(self._actors)]) for rank in range(count)
            ]

    with tempfile.TemporaryDirectory(prefix="tw", dir="/tmp") as folder:
        _start_ray(ray, folder, 1)
        living = [ray.remote(Ranks).options(num_cpus=0).remote() for _ in range(_LEAST_PROCESSES + _KILLED)]
        pids = ray.get([each.pid.remote() for each in living])
        interval = seconds_between_polls(count)

        def poll(group):
            """As Ray Train's controller: the seconds between two are counted from the end of the first."""
            time.sleep(interval)
            began, cpu = time.perf_counter(), time.process_time()
            found = group.poll_status(timeout=interval)
            return found, time.perf_counter() - began, time.process_time() - cpu

        noticed, looks, cpus = [], [], []
        for _ in range(_KILLED):
            group = Group(list(living))
            for _ in range(3):
                found, look, cpu = poll(group)
                assert not found.errors
                looks.append(look)
                cpus.append(cpu)
            died, pid = [], pids.pop()

            def kill(pid=pid, died=died):
                died.append(time.perf_counter())
                os.kill(pid, signal.SIGKILL)

            timer = threading.Timer(random.uniform(0, interval), kill)
            timer.start()
            while not poll(group)[0].errors:
                pass
            noticed.append(time.perf_counter() - died[0])
            timer.join()
            living.pop()
        row = {
            "ranks": count,
            "between_polls_s": interval,
            "poll_ms": round(statistics.median(looks) * 1e3),
            "controller_cpu_share": round(sum(cpus) / (sum(looks) + interval * len(looks)), 3),
            "death_noticed_s": {
                "median": round(statistics.median(noticed), 2),
                "most": round(max(noticed), 2),
            },
        }
        ray.shutdown()
    return row


def nodes(count):
    """One point: ``count`` nodes of one cluster."""
    import ray
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    try:
        ray.init(address=cluster.address, logging_level="ERROR")
        before = _memory_mb("")
        began = time.perf_counter()
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1, wait=False, **store)
        cluster.wait_for_nodes(timeout=240)
        added = time.perf_counter() - began
        used = _memory_mb("") - before
        asked = min(_timed(ray.nodes) for _ in range(5))
        group_began = time.perf_counter()
        group = ray.util.placement_group([{"CPU": 1}] * count, strategy="SPREAD")
        ray.get(group.ready(), timeout=240)
        placed = time.perf_counter() - group_began
        quiet = _cpu_seconds()["gcs"]
        time.sleep(_WATCHED_SECONDS)
        row = {
            "nodes": count,
            "add_s": round(added, 1),
            "list_ms": round(asked * 1e3, 2),
            "place_a_worker_on_each_ms": round(placed * 1e3),
            "gcs_waiting_cpu_ms_per_s": round((_cpu_seconds()["gcs"] - quiet) / _WATCHED_SECONDS * 1e3, 1),
            "gcs_mb": round(_memory_mb(_CENTRAL["gcs"])),
        }
        if count > 1:
            row["mb_a_node"] = round(used / (count - 1))
        return row
    finally:
        ray.shutdown()
        cluster.shutdown()


def training(count):
    """One point: a whole run on ``count`` workers."""
    from orchestrator import events, sdk
    from orchestrator.spec.job import JobSpec

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
    with tempfile.TemporaryDirectory() as home:
        os.environ["TRAINWRIGHT_HOME"] = home
        began = time.time()
        run = sdk.submit(job, "local")
        times, pids, memory = {}, [], 0.0
        for line in run.cluster.logs(run.id, follow=True):
            event = events.parse(line) or {"event": ""}
            times.setdefault(event["event"], event.get("time", 0.0) - began)
            if event["event"] == "worker":
                pids.append(event["pid"])
            if event["event"] == "metrics":
                memory = max(memory, sum(_process_mb(psutil.Process(pid)) for pid in pids))
        assert run.status().state == "succeeded", run.status().message
    return {
        "training_workers": count,
        "first_step_s": round(times["metrics"], 1),
        "end_s": round(times["end"], 1),
        "mb_a_worker": round(memory / count),
    }


def _start_ray(ray, folder, cpus):
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=100_000_000,
        logging_level="ERROR",
        log_to_driver=False,
        _temp_dir=f"{folder}/ray",
        _node_ip_address="127.0.0.1",
    )


def _ours(part):
    """Our own processes whose command line has a part."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if part in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _cpu_seconds():
    return {
        name: sum(sum(process.cpu_times()[:2]) for process in _ours(part)) for name, part in _CENTRAL.items()
    }


def _memory_mb(part):
    return sum(_process_mb(process) for process in _ours(part))


def _process_mb(process):
    """A shared page counts once in all: each process has its share of it."""
    try:
        return process.memory_full_info().pss / 1e6
    except psutil.Error:
        return 0.0


def _timed(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def law(points):
    """``a + b n`` by least squares, and the power of the growth between the two largest points."""
    n, mean = len(points), sum(y for _, y in points) / len(points)
    mid = sum(x for x, _ in points) / n
    slope = sum((x - mid) * (y - mean) for x, y in points) / sum((x - mid) ** 2 for x, _ in points)
    (x0, y0), (x1, y1) = points[-2:]
    power = math.log(y1 / y0) / math.log(x1 / x0) if min(y0, y1) > 0 else math.nan
    return f"{mean - slope * mid:.3g} + {slope:.3g} n, power {power:.2f} between the two largest"


def _flat(row):
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", number) for inner, number in value.items())
        else:
            yield name, value


MODES = {"workers": tiny_workers, "actors": actors, "deaths": deaths, "nodes": nodes, "training": training}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for mode in MODES:
        parser.add_argument(f"--{mode}", default="", metavar="N,N,...")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.point:
        mode, count = options.point
        print(json.dumps(MODES[mode](int(count))), flush=True)
        return
    for mode in MODES:
        rows = []
        for count in filter(None, getattr(options, mode).split(",")):
            command = [sys.executable, __file__, "--point", mode, count]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append(json.loads(output.strip().splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
        if len(rows) > 1:
            unit, *names = [name for name, _ in _flat(rows[-1])]
            for name in names:
                points = [(flat[unit], flat[name]) for row in rows if name in (flat := dict(_flat(row)))]
                print(f"{name} = {law(points)}")


if __name__ == "__main__":
    main()
