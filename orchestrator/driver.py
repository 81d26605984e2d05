"""On the Ray head: Plan -> data, workers, end. The one command that every backend runs.

``python -m orchestrator.driver --plan plan.json --launch 1 [--start-ray DIR]``
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import events
from orchestrator.errors import ResourcesError, StoppedError, TrainwrightError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.recovery.incidents import Incident, incident_of
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.storage import is_uri
from orchestrator.storage.arrow import open_filesystem

_STARTED_AT = time.time()

DATA_CPUS = 1
"""Logical CPUs of a private Ray instance beside those of the workers: reading must never wait for training."""


def main(arguments: list[str] | None = None) -> int:
    """Run one launch of a plan to its end; the exit code is that of the end's reason."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.driver", description=__doc__)
    parser.add_argument("--plan", required=True, help="file with the plan's JSON")
    parser.add_argument("--launch", type=int, default=1, help="1, and one more for each resume")
    parser.add_argument(
        "--start-ray", metavar="DIR", help="start a private Ray instance with its files in DIR"
    )
    options = parser.parse_args(arguments)
    plan = Plan.model_validate_json(Path(options.plan).read_text(encoding="utf-8"))
    return Driver(plan, options.launch, options.start_ray).run()


class Driver:
    """One launch."""

    def __init__(self, plan: Plan, launch: int, ray_dir: str | None) -> None:
        self._plan, self._launch, self._ray_dir = plan, launch, ray_dir
        self._record = RunRecord(plan.storage)
        earlier = self._record.status(launch)
        self._status = earlier or RunStatus(
            run_id=plan.run_id,
            state=RunState.PENDING,
            name=plan.job.name,
            launch=launch,
            submitted_at=time.time(),
        )
        self._stops_asked = 0
        self._has_workers = False

    def run(self) -> int:
        """Start Ray, prepare data, train, write the end. A launch that has its end already is not run again: a
        cluster that did not hear of the end (KubeRay, after a lost head) starts the same command once more.
        """
        if self._status.state.is_final:
            return self._tell_end(self._status)
        self._listen_to_signals()
        try:
            self._set(RunState.STARTING)
            end = self._train()
        except BaseException as error:
            incident = incident_of(error)
            if not isinstance(error, TrainwrightError) and incident.reason is EndReason.INFRASTRUCTURE:
                traceback.print_exc()
            end = self._failed(incident)
        finally:
            self._leave_ray()
        end = self._record.end(end)
        if end.state is not RunState.SUCCEEDED:
            _close_tracking(self._plan, end)
        return self._tell_end(end)

    def _tell_end(self, end: RunStatus) -> int:
        events.emit(
            "end", state=end.state, reason=end.reason, message=end.message, metrics=end.metrics, step=end.step
        )
        return end.reason.exit_code if end.reason else 4

    def _train(self) -> RunStatus:
        _set_environment(self._plan)
        if self._ray_dir:
            os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # one process less to start
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # one machine only: Ray binds to loopback
            _set_token(self._ray_dir)  # before the import: Ray's core reads it as it loads
        import ray

        if self._ray_dir:
            _start_private_ray(self._plan, self._ray_dir)
        else:
            ray.init(address="auto", logging_level="WARNING", log_to_driver=True)
        self._listen_to_signals()  # ray.init puts its own SIGTERM handler there, which exits
        _wait_for_resources(self._plan, may_grow=not self._ray_dir, stop_asked=self._stop_asked)

        from orchestrator import data

        prepared = data.prepare(self._plan)
        self._has_workers = True
        result = _trainer(
            self._plan, self._launch, prepared.model_dump_json(), own_ray=bool(self._ray_dir)
        ).fit()
        outcome: dict[str, Any] = result.return_value
        metrics = {name: value for name, value in outcome["metrics"].items() if isinstance(value, float)}
        self._status = self._status.model_copy(
            update={"step": outcome["step"], "attempt": outcome["attempt"]}
        )
        if outcome["stopped"]:
            return self._end(
                RunState.STOPPED, EndReason.STOPPED_BY_USER, f"stopped after step {outcome['step']}", metrics
            )
        return self._end(
            RunState.SUCCEEDED, EndReason.COMPLETED, f"took all {outcome['step']} steps", metrics
        )

    # -- states ----------------------------------------------------------------------------------------------

    def _set(self, state: RunState) -> None:
        self._status = self._status.model_copy(update={"state": state, "total_steps": self._plan.total_steps})
        self._record.set_state(self._status)
        events.emit("state", state=state, run_id=self._plan.run_id, launch=self._launch)

    def _end(self, state: RunState, reason: EndReason, message: str, metrics: dict[str, float]) -> RunStatus:
        return self._status.model_copy(
            update={
                "state": state,
                "reason": reason,
                "message": message,
                "metrics": metrics,
                "ended_at": time.time(),
            }
        )

    def _failed(self, incident: Incident) -> RunStatus:
        if incident.traceback:
            sys.stderr.write(incident.traceback.rstrip() + "\n")
        if self._stop_asked():
            return self._end(RunState.STOPPED, EndReason.STOPPED_BY_USER, "stopped before it could save", {})
        state = RunState.STOPPED if incident.reason is EndReason.STOPPED_BY_USER else RunState.FAILED
        return self._end(state, incident.reason, incident.message, {})

    # -- stopping --------------------------------------------------------------------------------------------

    def _stop_asked(self) -> bool:
        return self._record.stop_was_asked(self._launch)

    def _listen_to_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        """First: ask the workers to finish the step and save. Second, or before there are workers: end now."""
        self._stops_asked += 1
        self._record.ask_to_stop(self._launch)
        if self._stops_asked > 1 or not self._has_workers:
            raise StoppedError("stopped at once")

    def _leave_ray(self) -> None:
        import ray

        ray.shutdown()
        if self._ray_dir:
            shutil.rmtree(self._ray_dir, ignore_errors=True)


def seconds_between_polls(workers: int) -> float:
    """How often Ray Train's controller asks its workers. At its default of 2 s it forgets what they said last before
    they died. One look costs it a quarter to a third of a millisecond of CPU a worker: from 140 workers on it looks
    less often, so that it never takes more than a quarter of a core.
    """
    return max(0.2, workers * 1.4e-3)


def _set_environment(plan: Plan) -> None:
    """What Ray reads from the environment, all in one place; it passes them on to the controller and the workers."""
    recovery = plan.job.recovery
    os.environ.update(
        {
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": f"{seconds_between_polls(plan.world_size):g}",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(int(recovery.worker_start_timeout)),
            "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(int(recovery.hang_timeout)),
            "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "RAY_DEDUP_LOGS": "0",
            "RAY_COLOR_PREFIX": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "TOKENIZERS_PARALLELISM": "false",
            **plan.job.environment.env,
        }
    )


def _runtime_env(plan: Plan) -> dict[str, Any]:
    environment = plan.job.environment
    made: dict[str, Any] = {"env_vars": dict(environment.env)}
    if environment.working_dir:
        folder = Path(plan.base_dir) / environment.working_dir
        if folder.is_dir():
            made["env_vars"]["PYTHONPATH"] = str(folder)
    if environment.pip:
        made["pip"] = list(environment.pip)
    return made


def _set_token(ray_dir: str) -> None:
    """A fresh token for a private Ray instance, in a file that only this user reads."""
    import secrets

    Path(ray_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    token = Path(ray_dir) / "token"
    descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def _start_private_ray(plan: Plan, ray_dir: str) -> None:
    """A Ray instance of this run's own, on ports that are free."""
    import ray

    scaling = plan.job.scaling
    ray.init(
        address="local",
        num_cpus=int(plan.world_size * scaling.cpus_per_worker + 0.999) + DATA_CPUS,
        num_gpus=plan.world_size * scaling.gpus_per_worker or None,
        include_dashboard=False,
        object_store_memory=_object_store_bytes(),
        logging_level="WARNING",
        log_to_driver=True,
        runtime_env=_runtime_env(plan),
        _temp_dir=ray_dir,
        _node_ip_address="127.0.0.1",
    )


def _object_store_bytes() -> int:
    """A tenth of the machine's memory, from 256 MB to 2 GB, and no more than half of /dev/shm."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory
    return max(100 * 2**20, min(2 * 10**9, max(256 * 10**6, memory // 10), shared // 2))


def _wait_for_resources(plan: Plan, *, may_grow: bool, stop_asked: Callable[[], bool]) -> None:
    """Say at once what is missing, since Ray would wait without end; wait for nodes only where they may still come.

    Raises:
        ResourcesError: what is asked for, and what the cluster has.
        StoppedError: a stop was asked for meanwhile.

    """
    import ray

    scaling = plan.job.scaling
    deadline = time.monotonic() + (plan.job.recovery.worker_start_timeout if may_grow else 0)
    told = False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(_workers_that_fit(node, plan) for node in nodes)
        if room >= plan.world_size:
            return
        cpus = sum(node.get("CPU", 0) for node in nodes)
        gpus = sum(node.get("GPU", 0) for node in nodes)
        message = (
            f"{plan.world_size} workers of {scaling.cpus_per_worker:g} CPUs and {scaling.gpus_per_worker} GPUs are asked"
            f" for, but the cluster has room for {room}: {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs in all"
        )
        if time.monotonic() >= deadline:
            raise ResourcesError(message)
        if stop_asked():
            raise StoppedError("stopped while waiting for nodes")
        if not told:
            told = True
            events.emit("waiting", message=message)
        time.sleep(1.0)


def _workers_that_fit(node: dict[str, float], plan: Plan) -> int:
    scaling = plan.job.scaling
    fits = int((node.get("CPU", 0) + 1e-6) // scaling.cpus_per_worker)
    if scaling.gpus_per_worker:
        fits = min(fits, int(node.get("GPU", 0) // scaling.gpus_per_worker))
    if scaling.memory_per_worker:
        fits = min(fits, int(node.get("memory", 0) // scaling.memory_per_worker))
    if scaling.accelerator_type and not node.get(f"accelerator_type:{scaling.accelerator_type}"):
        return 0
    return fits


def _trainer(plan: Plan, launch: int, prepared: str, *, own_ray: bool) -> Any:
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from orchestrator import worker
    from orchestrator.recovery.policy import RetryWhatCanHelp

    scaling, recovery = plan.job.scaling, plan.job.recovery
    store, path = None, f"{plan.storage}/ray"
    if is_uri(path):
        store, path = open_filesystem(path)

    unused = {"PlacementGroupCleanerCallback"} if own_ray else set()

    class Trainer(TorchTrainer):
        """TorchTrainer with our failure policy in place of Ray's, which retries user errors and waits without end."""

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            arguments["failure_policy"] = RetryWhatCanHelp(recovery.max_failures)
            return super()._initialize_and_run_controller(**arguments)

        def _create_default_callbacks(self) -> Any:
            """Without Ray's placement-group cleaner: it needs the dashboard, and here the driver's end frees all."""
            return [c for c in super()._create_default_callbacks() if type(c).__name__ not in unused]

        def _register_sigint_handler(self, controller: Any) -> None:
            """Ours stays: it stops gracefully where Ray's aborts."""

    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker:
        resources["GPU"] = scaling.gpus_per_worker
    if scaling.memory_per_worker:
        resources["memory"] = scaling.memory_per_worker
    labels = [dict(scaling.node_labels)] * plan.world_size if scaling.node_labels else None
    return Trainer(
        worker.run,
        train_loop_config={
            "plan": plan.model_dump_json(),
            "prepared": prepared,
            "launch": launch,
            "started_at": _STARTED_AT,
        },
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if scaling.gpus_per_worker else "gloo",
            timeout_s=int(recovery.hang_timeout),
        ),
        scaling_config=ScalingConfig(
            num_workers=plan.world_size,
            use_gpu=bool(scaling.gpus_per_worker),
            resources_per_worker=resources,
            placement_strategy={"pack": "PACK", "spread": "SPREAD"}[scaling.placement],
            accelerator_type=scaling.accelerator_type,
            label_selector=labels,
        ),
        run_config=RunConfig(
            name=f"launch-{launch}",
            storage_path=path,
            storage_filesystem=store,
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _close_tracking(plan: Plan, end: RunStatus) -> None:
    """Rank 0 closes the tracker's run when the loop ends; when it could not, the driver does."""
    if end.state is RunState.FAILED and plan.tracking_uri:
        from orchestrator.telemetry.tracking import open_tracker

        open_tracker(plan, dataset={}, on_url=lambda url: None).finish("FAILED")


if __name__ == "__main__":
    sys.exit(main())
