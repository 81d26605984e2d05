"""What a run exports to Prometheus through Ray's own metrics port, for the chart's dashboards and alerts.

Ray puts ``ray_`` before each name. Tags: ``run``, ``family``, ``strategy``; ``part`` on the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from orchestrator.ledger import Ledger
from orchestrator.planning.plan import Plan

_LEDGER = {"forward_backward": "step", "optimizer": "step"}
"""Parts of the loop's meter that are one part of the ledger."""

TAGS = ("run", "family", "strategy")


class Gauges:
    """A run's figures, set by rank 0 at each log. Ray's agent collects them; nothing here waits."""

    def __init__(self, plan: Plan, *, attempt: int, start_seconds: float) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tags = _tags(plan)

        def gauge(name: str, description: str) -> Any:
            return Gauge(f"trainwright_{name}", description=description, tag_keys=TAGS)

        def counter(name: str, description: str, *more: str) -> Any:
            return Counter(f"trainwright_{name}", description=description, tag_keys=(*TAGS, *more))

        self._step = gauge("step", "Last step that was logged.")
        self._loss = gauge("loss", "Training loss since the last log.")
        self._rate = gauge("samples_per_second", "Samples of all workers a second since the last log.")
        self._wait = gauge(
            "data_wait_share",
            "Share of the time that the rank waited for data that did so most, since the last log.",
        )
        self._age = gauge(
            "checkpoint_age_seconds", "Seconds since the last checkpoint was begun, or since the start."
        )
        self._moment = gauge(
            "last_step_timestamp_seconds", "When the last step was logged, in seconds since the epoch."
        )
        self._stall = counter(
            "checkpoint_stall_seconds_total", "Seconds that training stood still for checkpoints."
        )
        self._seconds = counter("seconds_total", "Seconds of rank 0 by part, as they pass.", "part")
        self._restarts = counter("restarts_total", "Worker-group starts after the first.")
        self._saved_at = time.monotonic()
        self._seconds.inc(max(start_seconds, 1e-9), {**self._tags, "part": "start"})
        if attempt > 1:
            self._restarts.inc(attempt - 1, self._tags)

    def logged(
        self, step: int, values: Mapping[str, float], seconds: Mapping[str, float], *, again: bool
    ) -> None:
        """Figures of a log: metric values by name, and seconds by part since the last one.

        ``again``: these steps were taken before and lost with a worker, so their time is ``replay``.
        """
        for gauge, name in (
            (self._rate, "system/samples_per_second"),
            (self._wait, "system/data_wait_share"),
        ):
            gauge.set(values[name], self._tags)
        losses = [value for name, value in values.items() if name.startswith("train/loss")]
        if losses:
            self._loss.set(sum(losses), self._tags)
        self._step.set(step, self._tags)
        self._moment.set(time.time(), self._tags)
        self._age.set(time.monotonic() - self._saved_at, self._tags)
        for part, spent in seconds.items():
            if spent > 0:
                self._seconds.inc(
                    spent, {**self._tags, "part": _LEDGER.get(part, part) if not again else "replay"}
                )

    def saved(self) -> None:
        """A checkpoint was begun."""
        self._saved_at = time.monotonic()

    def stalled(self, seconds: float) -> None:
        """Training stood still for a checkpoint."""
        if seconds > 0:
            self._stall.inc(seconds, self._tags)


class LedgerGauges:
    """Where the time of the whole run went, set by the driver each time that it writes the ledger."""

    def __init__(self, plan: Plan) -> None:
        from ray.util.metrics import Gauge

        self._tags = _tags(plan)
        self._seconds = Gauge(
            "trainwright_ledger_seconds",
            description="The ledger: seconds by part, over launches and attempts.",
            tag_keys=(*TAGS, "part"),
        )
        self._effective = Gauge(
            "trainwright_effective_training_time",
            description="Share of the launches' time that steps took that counted.",
            tag_keys=TAGS,
        )

    def show(self, ledger: Ledger) -> None:
        """As it stands."""
        self._effective.set(ledger.effective, self._tags)
        for part, seconds in ledger.seconds.items():
            self._seconds.set(seconds, {**self._tags, "part": part})


def _tags(plan: Plan) -> dict[str, str]:
    return {"run": plan.run_id, "family": plan.job.model.family, "strategy": plan.job.strategy.kind}
