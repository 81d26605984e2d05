"""All of a launch that is Ray's: an instance of its own or the cluster's, what Ray reads, and Ray Train's workers.

Ray itself is imported on use, since it reads its settings from the environment as it loads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
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
from orchestrator.gpus import held_gpus
from orchestrator.planning.memory import TRAINED_SECONDS_HERE, waiting_process_bytes
from orchestrator.planning.plan import Plan
from orchestrator.private import temporary_files_in
from orchestrator.ray_settings import (
    environment_of,
    first_processes,
    makes_environments,
    object_store_bytes_here,
    private_cpus,
    runtime_env,
    workers_here,
    write_token,
)
from orchestrator.records import RunRecord
from orchestrator.recovery.diagnosis import Diagnosis, nobody_trains
from orchestrator.recovery.faulty_nodes import FaultyNodes, Node
from orchestrator.recovery.hangs import PATIENCE, Hang, incident_text
from orchestrator.retries import is_tried_again, pause_seconds
from orchestrator.room import answers, resources_per_worker, shortage, workers_beside_readers
from orchestrator.runs import EndReason, Group, RunStatus
from orchestrator.section import format_bytes
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
RoomOf = Callable[[Plan], Callable[[], int] | None]
"""Of a plan, what tells for how many workers a private instance has room; None where that never changes."""

_NODE_POLL_SECONDS = 1.0
_LAST_WORDS_SECONDS = 15.0
_FIRST_PAUSE_SECONDS = 2.0
_ASKED_AT_ONCE = 64
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where the workers of one machine talk to each other: nobody else can listen in or join."""


class RaySession:
    """A connection to Ray for one plan. Leaving it ends a private instance with all in it."""

    def __init__(
        self,
        plan: Plan,
        private_dir: str | None,
        record: RunRecord,
        room: RoomOf | None = None,
    ) -> None:
        """
        Args:
            plan: what is trained.
            private_dir: folder for the files of an instance of its own; None joins the instance of this node.
            record: the run's; a driver's refuses all writes once another driver has taken the launch over.
            room: of a private instance.

        """
        self._room_here = room(plan) if room and private_dir else None
        self._plan, self._private_dir, self._record = plan, private_dir, record
        self._group: Group | None = None
        self._most, self._is_narrowed = (
            plan.world_size,
            bool(private_dir and plan.sizes and not self._room_here),
        )
        self._is_warm = plan.job.recovery.warm_processes
        # an instance of its own has one node
        self._nodes = FaultyNodes(None if private_dir else plan.job.recovery.exclude_nodes_after)
        self._held = contextlib.ExitStack()
        self.look: Callable[[], Diagnosis] = nobody_trains
        self.head_has_notice: Callable[[], bool] = lambda: False
        """Whether the node of this process will be taken away while the workers' stay."""
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
                if not is_tried_again(EndReason.INFRASTRUCTURE, message, failure, most):
                    raise InfrastructureError(message) from None
                if not self._private_dir:  # a head that was lost may come back
                    time.sleep(pause_seconds(failure, _FIRST_PAUSE_SECONDS))
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
        from orchestrator.standby import variables

        plan = self._plan
        if not self._room_here:
            plan = self._plan = plan.with_workers(workers_here(plan))
        if self._is_warm:  # all that it starts has them, so that any process may be a worker's
            os.environ.update(variables(plan))
        gpus = plan.world_size * plan.job.scaling.gpus_per_worker
        self._held.enter_context(held_gpus(gpus, plan.run_id))
        if "TMPDIR" not in plan.job.environment.env:
            self._held.enter_context(temporary_files_in(Path(folder, "tmp")))
        own = OwnRay(
            f"{folder}/r",  # Ray opens it to everybody, so it is no place for the token
            cpus=private_cpus(plan),
            processes=first_processes(plan),
            gpus=gpus,
            object_store_bytes=object_store_bytes_here(),
            runtime_env=runtime_env(plan),
            has_agent=makes_environments(plan),
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

        if self._room_here:
            return self._room_here()
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
                answered = list(pool.map(answers, usable))
            usable = [node for node, is_there in zip(usable, answered, strict=True) if is_there]
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
        self._change_status(launch, lambda status: status.with_group(group))

    def _record_left_out(self, launch: int, nodes: Sequence[Node]) -> None:
        """In the run's status, which the next attempt's rank 0 goes on from."""
        self._change_status(launch, lambda status: status.without_nodes(map(str, nodes)))

    def _change_status(self, launch: int, change: Callable[[RunStatus], RunStatus]) -> None:
        """Storage that fails for a moment is told at the next attempt; the log has it. Raises SupersededError."""
        with contextlib.suppress(OSError):
            if status := self._record.status(launch):
                self._record.set_state(change(status))

    def _restarts(
        self, variables: Mapping[str, str]
    ) -> tuple[KeepsProcessesReady | None, HoldsSpares | None]:
        """What is held ready for a group's next start.

        Args:
            variables: of the workers' environment.

        """
        from ray.util.placement_group import NODE_ID_LABEL_KEY

        from orchestrator.restarts import HoldsSpares, KeepsProcessesReady, Spares

        plan, labels = self._plan, self._plan.job.scaling.node_labels
        ready = None
        if self._is_warm:
            ready = (
                KeepsProcessesReady(
                    TRAINED_SECONDS_HERE, partial(_lack_memory_here, waiting_process_bytes(plan.job))
                )
                if self._private_dir
                else KeepsProcessesReady()
            )
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
        name = self._record.keep_incident(hang.attempt, incident_text(hang))
        blamed = [{"rank": rank, **asdict(hang.places[rank])} for rank in hang.blamed]
        events.emit("hang", attempt=hang.attempt, blamed=blamed, message=hang.sentence, file=name)
        if status := self._record.status(launch):
            self._record.set_state(status.saying(f"attempt {hang.attempt} hung: {hang.sentence}"))
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
        from orchestrator.head_watch import HeadWatch
        from orchestrator.last_words import LastWords
        from orchestrator.standby import variables
        from orchestrator.trainer import Trainer
        from orchestrator.worker_group import GroupConfig

        plan = self._plan
        reads_by_ray = plan.job.data.reader == "ray"
        if reads_by_ray and not self._private_dir:
            from orchestrator.data.reading.ray_data_shared import keep_statistics_here

            keep_statistics_here()
        is_shared = self._is_warm and not self._private_dir
        environment = variables(plan) if is_shared else {}
        ready, spares = self._restarts(environment)
        if self._is_narrowed:
            self._record_group(launch, plan.world_size, "this machine has room for no more")
        hang_watch = HangWatch(plan.job.recovery.hang_timeout, partial(self._keep_hang, launch))
        self.look = hang_watch.look
        head_watch = HeadWatch(self.head_has_notice) if plan.job.recovery.on_notice == "save" else None
        last_words = LastWords(_LAST_WORDS_SECONDS)
        trainer = Trainer(
            partial(_work, work, bool(self._private_dir) and reads_by_ray),
            train_loop_config=dict(config),
            max_failures=plan.job.recovery.max_failures,
            own_ray=bool(self._private_dir),
            missing=self._missing,
            nodes=self._nodes,
            node_labels=plan.job.scaling.node_labels,
            left_out=partial(self._record_left_out, launch),
            elastic=self._elastic(launch, spares),
            hang_watch=hang_watch,
            last_words=last_words,
            callbacks=[each for each in (head_watch, spares, ready) if each],
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


def room_of_machine(plan: Plan) -> None:
    """What there is at the start: nothing comes to this machine, and nothing goes."""


def _lack_memory_here(each: int, processes: int) -> bool:
    """Whether this machine has too little free for so many that wait, which is said. Half of what is free stays so."""
    import psutil

    wanted, free = processes * each, psutil.virtual_memory().available
    if 2 * wanted <= free:
        return False
    sys.stdout.write(
        f"no process waits for a restart: {processes} would take {format_bytes(wanted)}, and this machine has"
        f" {format_bytes(free)} free\n"
    )
    return True


def _tell_spares(held: int, of: int) -> None:
    events.emit("spares", held=held, of=of)


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
