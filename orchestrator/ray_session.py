"""All of a launch that is Ray's: an instance of its own or the cluster's, what Ray reads, and Ray Train's workers.

Ray itself is imported on use, since it reads its settings from the environment as it loads.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orchestrator import events
from orchestrator.errors import InfrastructureError, ResourcesError, StoppedError, TrainwrightError
from orchestrator.gpus import free_gpus, held_gpus
from orchestrator.planning.plan import Plan
from orchestrator.private import new_folder, temporary_files_in
from orchestrator.records import RunRecord
from orchestrator.recovery.diagnosis import Diagnosis, nobody_trains
from orchestrator.recovery.faulty_nodes import FaultyNodes, Node
from orchestrator.recovery.hangs import PATIENCE, Hang, incident_text
from orchestrator.runs import EndReason, Group
from orchestrator.storage import is_uri
from orchestrator.storage.arrow import open_filesystem
from orchestrator.storage.faults import first_line
from orchestrator.telemetry.spool import HANG, Spool

if TYPE_CHECKING:
    from orchestrator.restarts import HoldsSpares, KeepsProcessesReady
    from orchestrator.trainer import Elastic
    from orchestrator.worker import Watch

Work = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What each worker's process does with the loop's config; Ray carries it there by its name."""

DATA_CPUS = 1
"""Logical CPUs of a private Ray instance beside those of the workers: reading must never wait for training."""

_NODE_POLL_SECONDS = 1.0
_LAST_WORDS_SECONDS = 15.0
_LONGEST_PAUSE_SECONDS = 30.0
_NODE_ANSWER_SECONDS, _ASKED_AT_ONCE = 2.0, 64
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where the workers of one machine talk to each other: nobody else can listen in or join."""


class RaySession:
    """A connection to Ray for one plan. Leaving it ends a private instance with all in it."""

    def __init__(self, plan: Plan, private_dir: str | None) -> None:
        """
        Args:
            plan: what is trained.
            private_dir: folder for the files of an instance of its own; None joins the instance of this node.

        """
        self._plan, self._private_dir = plan, private_dir
        self._group: Group | None = None
        self._most, self._is_narrowed = plan.world_size, bool(private_dir and plan.sizes)
        self._is_warm = plan.job.recovery.warm_processes and not private_dir
        # an instance of its own has one node
        self._nodes = FaultyNodes(None if private_dir else plan.job.recovery.exclude_nodes_after)
        self._held = contextlib.ExitStack()
        self.look: Callable[[], Diagnosis] = nobody_trains
        """What all workers do now; asked by any thread."""

    def __enter__(self) -> RaySession:
        """Raises InfrastructureError where Ray does not start, after as many tries as the job allows failures."""
        os.environ.update(environment_of(self._plan))
        most = self._plan.job.recovery.max_failures
        for failure in range(1, most + 2):
            try:
                self._connect()
                return self
            except (Exception, SystemExit) as error:  # Ray exits where its processes don't start
                self._leave()
                if isinstance(error, TrainwrightError):
                    raise
                message = f"Ray did not start: {first_line(error)}"
                retry = failure <= most
                events.emit(
                    "incident",
                    reason=EndReason.INFRASTRUCTURE,
                    message=message,
                    rank=None,
                    failure=failure,
                    max_failures=most,
                    retry=retry,
                )
                if not retry:
                    raise InfrastructureError(message) from None
                if not self._private_dir:  # a head that was lost may come back
                    time.sleep(min(_LONGEST_PAUSE_SECONDS, 2.0**failure))
            except BaseException:
                self._leave()
                raise
        raise AssertionError

    def _connect(self) -> None:
        if self._private_dir:
            self._start(self._private_dir)
        else:
            import ray

            ray.init(address="auto", logging_level="WARNING", log_to_driver=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _start(self, folder: str) -> None:
        """An instance of this run's own, on ports that are free."""
        # one process less to start: this instance has one node, which nobody drains
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # one machine only: Ray binds to loopback
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.update(_LOOPBACK)
        os.environ["RAY_AUTH_TOKEN_PATH"] = write_token(folder)
        from orchestrator.own_ray import OwnRay

        plan = self._plan = self._plan.with_workers(workers_here(self._plan))
        gpus = plan.world_size * plan.job.scaling.gpus_per_worker
        self._held.enter_context(held_gpus(gpus, plan.run_id))
        if "TMPDIR" not in plan.job.environment.env:
            self._held.enter_context(temporary_files_in(Path(folder, "tmp")))
        own = OwnRay(
            f"{folder}/r",  # Ray opens it to everybody, so it is no place for the token
            cpus=private_cpus(plan),
            processes=first_processes(plan),
            gpus=gpus,
            object_store_bytes=_object_store_bytes_here(),
            runtime_env=runtime_env(plan),
        )
        self._held.callback(own.close)

    def _leave(self) -> None:
        import ray

        ray.shutdown()
        self._held.close()
        if self._private_dir:
            shutil.rmtree(self._private_dir, ignore_errors=True)

    def wait_for_resources(self, stop_asked: Callable[[], bool]) -> None:
        """Say at once what is missing, since Ray would wait without end; wait for nodes only where they may still come.

        Raises:
            ResourcesError: what is asked for, and what the cluster has.
            StoppedError: a stop was asked for meanwhile.

        """
        patience = 0.0 if self._private_dir else self._plan.job.recovery.worker_start_timeout
        deadline = time.monotonic() + patience
        is_told = False
        while missing := self._missing():
            if time.monotonic() >= deadline:
                raise ResourcesError(missing)
            if stop_asked():
                raise StoppedError("stopped while waiting for nodes")
            if not is_told:
                is_told = True
                events.emit("waiting", message=missing)
            time.sleep(_NODE_POLL_SECONDS)

    def _missing(self) -> str:
        """What the nodes that stay lack for the workers; empty where they have room."""
        import ray

        leaving = ray._private.state.state.get_draining_nodes()
        left_out = {node.id: node for node in self._nodes.left_out}
        there = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
        usable = [node["Resources"] for node in there if node["NodeID"] not in left_out]
        if (missing := shortage(usable, self._plan)) and left_out:
            return (
                f"{missing}; left out, since their hardware failed: {', '.join(map(str, left_out.values()))}"
            )
        return missing

    def _room(self, own: Mapping[str, int], *, is_checked: bool) -> int:
        """For how many of the plan's workers the nodes that stay have room.

        Args:
            own: workers that run already, which keep their room, by Ray's id of the node.
            is_checked: ask each node whether it is there: Ray counts one that is gone for a quarter of a minute.

        """
        import ray

        leaving = ray._private.state.state.get_draining_nodes()
        left_out = {node.id for node in self._nodes.left_out}
        free = ray._private.state.available_resources_per_node()
        labels = self._plan.job.scaling.node_labels
        usable = [
            node
            for node in ray.nodes()
            if node["Alive"]
            and labels.items() <= node["Labels"].items()
            and node["NodeID"] not in left_out
            and node["NodeID"] not in leaving
        ]
        if is_checked:
            with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                answers = list(pool.map(_is_there, usable))
            usable = [node for node, answer in zip(usable, answers, strict=True) if answer]
        stay = [node["NodeID"] for node in usable]
        room = workers_beside_readers([free.get(node, {}) for node in stay], self._plan, is_first=not own)
        return room + sum(own.get(node, 0) for node in stay)

    def _record_group(self, launch: int, workers: int, failure: str) -> None:
        """In the run's status, which the next attempt's rank 0 goes on from.

        Args:
            workers: with which the group starts.
            failure: why the group before ended; empty for the first.

        """
        before, most = self._group, self._most
        if before is not None and before.workers == workers:
            return
        because = "there is room for all" if workers == most else failure or "there is room for no more"
        group = self._group = Group(workers=workers, most=most, since=time.time(), because=because)
        events.emit("group", **group.model_dump())
        record = RunRecord(self._plan.storage)
        with contextlib.suppress(OSError):  # as with nodes that are left out
            if status := record.status(launch):
                record.set_state(status.with_group(group))

    def _restarts(
        self, variables: Mapping[str, str]
    ) -> tuple[KeepsProcessesReady | None, HoldsSpares | None]:
        """What is held ready for a group's next start; on this machine nothing is.

        Args:
            variables: of the workers' environment.

        """
        from ray.util.placement_group import NODE_ID_LABEL_KEY

        from orchestrator.restarts import HoldsSpares, KeepsProcessesReady, Spares

        plan, labels = self._plan, self._plan.job.scaling.node_labels
        ready = KeepsProcessesReady() if variables else None
        if not (count := plan.job.recovery.spare_workers):
            return ready, None
        spares = Spares(
            count=count,
            resources=_scaling_config(plan)._resources_per_worker_not_none,
            labels=lambda: self._nodes.without(labels, NODE_ID_LABEL_KEY) or labels,
            beside=plan.world_size,
            variables=variables,
        )
        return ready, HoldsSpares(spares, ready, _tell_spares)

    def _elastic(self, launch: int, spares: HoldsSpares | None) -> Elastic | None:
        """What decides on the group's size; None where that is fixed."""
        from orchestrator.recovery.group_size import GroupSizes
        from orchestrator.trainer import Elastic

        bounds = self._plan.job.scaling.range
        if bounds is None:
            return None
        sizes = [size.workers for size in self._plan.sizes]
        return Elastic(
            GroupSizes(sizes, bounds.stabilization_window),
            self._room,
            spares.on_nodes if spares else Counter,
            partial(self._record_group, launch),
        )

    def _keep_hang(self, launch: int, hang: Hang) -> str:
        """Write down what hangs: a file with the stacks of all ranks, an event, the run's status, the tracker's tag."""
        record = RunRecord(self._plan.storage)
        name = record.keep_incident(hang.attempt, incident_text(hang))
        blamed = [{"rank": rank, **asdict(hang.places[rank])} for rank in hang.blamed]
        events.emit("hang", attempt=hang.attempt, blamed=blamed, message=hang.sentence, file=name)
        if status := record.status(launch):
            record.set_state(status.saying(f"attempt {hang.attempt} hung: {hang.sentence}"))
        if self._plan.tracking_uri:
            Spool(self._plan.storage).set_note(HANG, {"message": hang.sentence, "file": name})
        return f"{self._plan.storage}/{name}"

    def train(self, prepared: str, *, launch: int, started_at: float, work: Work) -> dict[str, Any]:
        """Run ``worker.run`` on the workers.

        Args:
            prepared: the prepared data, as JSON.
            launch: 1, and one more for each resume.
            started_at: of the driver, in seconds since the epoch.
            work: what each worker does: ``train_on_worker``, or that with somebody who watches.

        """
        config = {
            "plan": self._plan.model_dump_json(),
            "prepared": prepared,
            "launch": launch,
            "started_at": started_at,
        }
        return self.on_workers(work, config, launch=launch)

    def on_workers(self, work: Work, config: Mapping[str, Any], *, launch: int) -> dict[str, Any]:
        """Run some work on a group of workers, again where that can help; returns what rank 0 returned.

        Args:
            work: a function of a module.
            config: what each worker's call of it is given.
            launch: 1, and one more for each resume.

        Raises:
            ray.train.TrainingFailedError: see ``recovery.incidents``.

        """
        from orchestrator.hang_watch import HangWatch
        from orchestrator.last_words import LastWords
        from orchestrator.standby import variables
        from orchestrator.trainer import Trainer
        from orchestrator.worker_group import GroupConfig

        plan = self._plan
        environment = variables(plan.job.scaling.cpus_per_worker) if self._is_warm else {}
        ready, spares = self._restarts(environment)
        if self._is_narrowed:
            self._record_group(launch, plan.world_size, "this machine has room for no more")
        hang_watch = HangWatch(plan.job.recovery.hang_timeout, partial(self._keep_hang, launch))
        self.look = hang_watch.look
        last_words = LastWords(_LAST_WORDS_SECONDS)
        trainer = Trainer(
            partial(_work, work, bool(self._private_dir) and plan.job.data.reader == "ray"),
            train_loop_config=dict(config),
            max_failures=plan.job.recovery.max_failures,
            own_ray=bool(self._private_dir),
            missing=self._missing,
            nodes=self._nodes,
            node_labels=plan.job.scaling.node_labels,
            left_out=partial(_record_left_out, plan.storage, launch),
            elastic=self._elastic(launch, spares),
            hang_watch=hang_watch,
            last_words=last_words,
            restarts=[each for each in (spares, ready) if each],
            backend_config=GroupConfig(
                backend="cpu:gloo,cuda:nccl" if plan.job.scaling.gpus_per_worker else "gloo",
                timeout_seconds=PATIENCE * plan.job.recovery.hang_timeout,
                hears_sigterm=plan.job.recovery.on_notice == "save",
            ),
            scaling_config=_scaling_config(plan),
            run_config=_run_config(plan, launch, environment),
        )
        with last_words.waited_for():
            result: dict[str, Any] = trainer.fit().return_value
        return result


def _tell_spares(held: int, of: int) -> None:
    events.emit("spares", held=held, of=of)


def _is_there(node: Mapping[str, Any]) -> bool:
    """Whether a node's raylet takes connections."""
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        socket.create_connection(address, timeout=_NODE_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _record_left_out(storage: str, launch: int, nodes: Sequence[Node]) -> None:
    """In the run's status, which the next attempt's rank 0 goes on from."""
    record = RunRecord(storage)
    with contextlib.suppress(
        OSError
    ):  # storage that fails for a moment is told at the next attempt; the log has it
        status = record.status(launch)
        if status is not None:
            record.set_state(status.without_nodes(map(str, nodes)))


def train_on_worker(config: Mapping[str, Any], watch: Watch | None = None) -> dict[str, Any]:
    """In each worker's process, which alone imports torch.

    Args:
        config: see ``worker.run``.
        watch: who watches its loop. Default: nobody.

    """
    from orchestrator import worker

    return worker.run(config, watch or worker.unwatched)


def _work(work: Work, alone_in_ray_data: bool, config: Mapping[str, Any]) -> dict[str, Any]:
    """In each worker's process."""
    from orchestrator.last_words import last_word

    if alone_in_ray_data:
        from orchestrator.data.reading.ray_data_alone import be_alone

        be_alone()
    with last_word():
        return work(config)


# -- what Ray reads ------------------------------------------------------------------------------------------


def seconds_between_polls(workers: int) -> float:
    """How often Ray Train's controller asks its workers. At its default of 2 s it forgets what they said last before
    they died. One look costs it a quarter to a third of a millisecond of CPU a worker: from 140 workers on it looks
    less often, so that it never takes more than a quarter of a core.
    """
    return max(0.2, workers * 1.4e-3)


def environment_of(plan: Plan) -> dict[str, str]:
    """What Ray reads from the environment, all in one place; it passes them on to the controller and the workers."""
    recovery = plan.job.recovery
    return {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": f"{seconds_between_polls(plan.world_size):g}",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(int(recovery.worker_start_timeout)),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(int(PATIENCE * recovery.hang_timeout)),
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(recovery.on_notice == "save")),
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_FR_BUFFER_SIZE": "500",
        **plan.job.environment.env,
    }


def runtime_env(plan: Plan) -> dict[str, Any]:
    """Ray's runtime environment for a private instance: the job's folder and packages. Its variables are the driver's
    already, and so those of all that it starts.
    """
    environment = plan.job.environment
    needed: dict[str, Any] = {}
    if environment.working_dir:
        folder = Path(plan.base_dir) / environment.working_dir
        if folder.is_dir():
            needed["env_vars"] = {"PYTHONPATH": str(folder)}
    if environment.pip:
        needed["pip"] = list(environment.pip)
    return needed


def workers_here(plan: Plan) -> int:
    """How many of the plan's workers a private instance has: as many as this machine has cores and free GPUs for, and no fewer
    than the plan asks for.
    """
    scaling = plan.job.scaling
    room = (os.cpu_count() or 1) / scaling.cpus_per_worker
    if scaling.gpus_per_worker:
        room = min(room, free_gpus() / scaling.gpus_per_worker)
    return plan.largest_within(int(room + 1e-6)) or plan.least_workers


def private_cpus(plan: Plan) -> int:
    """Logical CPUs of a private instance: the workers', and those that a read task sets aside: with fewer none would start."""
    workers = math.ceil(plan.world_size * plan.job.scaling.cpus_per_worker - 1e-6)
    return workers + max(DATA_CPUS, math.ceil(plan.job.data.reader_cpus))


def first_processes(plan: Plan) -> int:
    """Processes of Ray's that a launch needs first: the workers', the one by which they wait for each other, and one that
    reads for them.
    """
    return plan.world_size + 1 + (plan.job.data.reader == "ray")


def write_token(folder: str) -> str:
    """A fresh token in a file that only this user reads, in a new folder that only this user enters; returns its path.

    Raises InfrastructureError where the folder is there already, or others could take it over.
    """
    new_folder(Path(folder))
    path = Path(folder) / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return str(path)


def _object_store_bytes_here() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory
    return object_store_bytes(memory, shared)


def object_store_bytes(memory: int, shared_memory: int) -> int:
    """A tenth of the machine's memory, from 256 MB to 2 GB, and no more than half of /dev/shm; never under Ray's least."""
    return max(100 * 2**20, min(2 * 10**9, max(256 * 10**6, memory // 10), shared_memory // 2))


# -- resources -----------------------------------------------------------------------------------------------


def shortage(nodes: Sequence[Mapping[str, float]], plan: Plan) -> str:
    """One sentence on what nodes of these resources lack for the plan's fewest workers; empty where they have room."""
    scaling = plan.job.scaling
    room = sum(workers_that_fit(node, plan) for node in nodes)
    if room >= plan.least_workers:
        return ""
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = sum(node.get("GPU", 0) for node in nodes)
    return (
        f"{plan.least_workers} workers of {scaling.cpus_per_worker:g} CPUs and {scaling.gpus_per_worker} GPUs are asked"
        f" for, but the cluster has room for {room}: {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs in all"
    )


def workers_beside_readers(nodes: Sequence[Mapping[str, float]], plan: Plan, *, is_first: bool) -> int:
    """For how many of the plan's workers nodes with so much that is free have room.

    Args:
        nodes: what is free on each.
        plan: of the run.
        is_first: no task reads for the run yet, so room is left for one: without it all would wait for data.

    """
    data, scaling = plan.job.data, plan.job.scaling
    fit = [workers_that_fit(node, plan) for node in nodes]
    if not (is_first and data.reader == "ray"):
        return sum(fit)
    left = [
        node.get("CPU", 0) - workers * scaling.cpus_per_worker
        for node, workers in zip(nodes, fit, strict=True)
    ]
    lacks = max(0.0, data.reader_cpus - max(left, default=0.0))
    return max(0, sum(fit) - math.ceil(lacks / scaling.cpus_per_worker))


def workers_that_fit(node: Mapping[str, float], plan: Plan) -> int:
    """How many of the plan's workers a node of these resources has room for."""
    scaling = plan.job.scaling
    if scaling.accelerator_type and not node.get(f"accelerator_type:{scaling.accelerator_type}"):
        return 0
    asked = resources_per_worker(plan)
    return min(int((node.get(name, 0) + 1e-6) // amount) for name, amount in asked.items())


def resources_per_worker(plan: Plan) -> dict[str, float]:
    """By Ray's names."""
    scaling = plan.job.scaling
    asked = {
        "CPU": scaling.cpus_per_worker,
        "GPU": scaling.gpus_per_worker,
        "memory": scaling.memory_per_worker or 0,
    }
    return {name: amount for name, amount in asked.items() if amount}


# -- Ray Train -----------------------------------------------------------------------------------------------


def _scaling_config(plan: Plan) -> Any:
    from ray.train import ScalingConfig

    scaling = plan.job.scaling
    return ScalingConfig(
        num_workers=(plan.least_workers, plan.world_size) if plan.sizes else plan.world_size,
        use_gpu=bool(scaling.gpus_per_worker),
        resources_per_worker=resources_per_worker(plan),
        placement_strategy={"pack": "PACK", "spread": "SPREAD"}[scaling.placement],
        accelerator_type=scaling.accelerator_type,
        label_selector=[dict(scaling.node_labels)] * plan.world_size if scaling.node_labels else None,
    )


def _run_config(plan: Plan, launch: int, variables: Mapping[str, str]) -> Any:
    from ray.train import LoggingConfig, RunConfig

    store, path = None, f"{plan.storage}/ray"
    if is_uri(path):
        store, path = open_filesystem(path)
    return RunConfig(
        name=f"launch-{launch}",
        storage_path=path,
        storage_filesystem=store,
        logging_config=LoggingConfig(log_level="WARNING"),
        worker_runtime_env={"env_vars": dict(variables)} if variables else None,
    )
