"""When Ray Train tries again: a policy that returns a decision and does nothing else.

Seam: ``ray.train.v2._internal.execution.failure_handling``; covered by a contract test, the Ray minor is held.
"""

from __future__ import annotations

from ray.train import FailureConfig
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator import events
from orchestrator.recovery.faulty_nodes import FaultyNodes
from orchestrator.recovery.incidents import hardware_ranks, incident_of


class RetryWhatCanHelp(FailurePolicy):
    """Retries lost workers and infrastructure faults ``max_failures`` times, nodes that were taken away as often as that
    happens, and never an error in the job's own code.
    """

    def __init__(self, max_failures: int, nodes: FaultyNodes) -> None:
        """
        Args:
            max_failures: how often is tried again.
            nodes: where faults of hardware are counted.

        """
        super().__init__(FailureConfig(max_failures=max_failures))
        self._failures = self._doubtful = 0
        self._nodes = nodes

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """RETRY or RAISE."""
        incident = incident_of(training_failed_error)
        if incident.is_planned:
            events.emit("resize", message=incident.message)
            return FailureDecision.RETRY
        self._failures += incident.is_counted
        self._doubtful += incident.most_retries is not None
        retry = incident.retry and (
            not incident.is_counted or self._failures <= self.failure_config.max_failures
        )
        if incident.most_retries is not None:
            retry = retry and self._doubtful <= incident.most_retries
        events.emit(
            "incident",
            reason=incident.reason,
            message=incident.message,
            rank=incident.rank,
            failure=self._failures,
            max_failures=self.failure_config.max_failures,
            is_counted=incident.is_counted,
            retry=retry,
        )
        for node, faults in self._nodes.count(hardware_ranks(training_failed_error)).items():
            events.emit(
                "node_fault",
                node=str(node),
                faults=faults,
                most=self._nodes.most,
                is_left_out=node in self._nodes.left_out,
            )
        return FailureDecision.RETRY if retry else FailureDecision.RAISE
