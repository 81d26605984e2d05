"""What each node's machine does while a run trains: CPU, memory, GPUs, network and disk, sampled by one thread.

The points go through the spool as all others do, so each arrives once. Their step is the whole seconds since the run was
started, the same for all of its attempts: no two samples of a node share one. They describe the machine, not the run alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.planning.plan import Plan
from orchestrator.telemetry.spool import Spool

logger = logging.getLogger("orchestrator")

_FIRST_SECONDS, _SECONDS = 1.0, 10.0
"""Until the first sample, and between the others."""
_MEGABYTE = 1e6
_DISK = "/"

Keep = Callable[[int, Mapping[str, float]], None]
"""Takes the metric values of a step."""


def leads_node() -> bool:
    """Whether this rank is the one of its node that looks at the machine: Ray Train and torchrun say so."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


class NodeMetrics:
    """A node's samples, until it is closed."""

    def __init__(self, keep: Keep, *, plan: Plan, started_at: float) -> None:
        """
        Args:
            keep: where samples go; called on the thread.
            plan: of the run.
            started_at: of the driver, in seconds since the epoch, where the run's own start is not written down.

        """
        self._keep = keep
        self._prefix = f"system/node_{os.environ.get('NODE_RANK', '0')}"
        self._started_at: float = (Spool(plan.storage).note("run.json") or {}).get("started_at", started_at)
        self._newest_step = -1
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the last sample, and end. Doing it again changes nothing."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            with _gpus() as gpus:
                machine = Machine(gpus)
                is_over = self._ended.wait(_FIRST_SECONDS)
                while True:
                    self._sample(machine)
                    if is_over:
                        return
                    is_over = self._ended.wait(_SECONDS)
        except Exception as error:  # what a machine can't tell must not end a run
            logger.warning("system metrics of this node end here: %s", error)

    def _sample(self, machine: Machine) -> None:
        step = int(time.time() - self._started_at)
        if step > self._newest_step:
            self._newest_step = step
            self._keep(step, {f"{self._prefix}/{name}": value for name, value in machine.sample().items()})


class Machine:
    """The counters of this machine. Rates are those since the last sample."""

    def __init__(self, gpus: list[Any]) -> None:
        """``gpus``: NVML's handles, in its order."""
        import psutil

        self._gpus = gpus
        psutil.cpu_percent()  # it tells the share since it was asked last
        self._sampled_at, self._counters = time.monotonic(), _counters()

    def sample(self) -> dict[str, float]:
        """All that the machine tells now, by name."""
        import psutil

        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / _MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": psutil.disk_usage(_DISK).percent,
        }
        return values | self._rates() | self._of_gpus()

    def _rates(self) -> dict[str, float]:
        now, counters = time.monotonic(), _counters()
        seconds = max(now - self._sampled_at, 1e-3)
        before, self._sampled_at, self._counters = self._counters, now, counters
        return {
            f"{name}_megabytes_per_second": (value - before[name]) / _MEGABYTE / seconds
            for name, value in counters.items()
            if name in before
        }

    def _of_gpus(self) -> dict[str, float]:
        import pynvml

        values: dict[str, float] = {}
        for number, gpu in enumerate(self._gpus):
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            values[f"gpu_{number}_memory_usage_megabytes"] = memory.used / _MEGABYTE
            values[f"gpu_{number}_memory_usage_percentage"] = 100 * memory.used / memory.total
            with contextlib.suppress(pynvml.NVMLError):  # not told of a part of a GPU (MIG)
                values[f"gpu_{number}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            with contextlib.suppress(pynvml.NVMLError):
                values[f"gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3
        return values


def _counters() -> dict[str, int]:
    """Bytes since the machine's start, by what took them; without those that it does not count."""
    import psutil

    counted: dict[str, int] = {}
    if network := psutil.net_io_counters():
        counted |= {"network_receive": network.bytes_recv, "network_transmit": network.bytes_sent}
    if disk := psutil.disk_io_counters():
        counted |= {"disk_read": disk.read_bytes, "disk_write": disk.write_bytes}
    return counted


@contextlib.contextmanager
def _gpus() -> Iterator[list[Any]]:
    """NVML's handles of all GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        yield [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
