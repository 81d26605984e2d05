"""A run whose output ends before its cluster says how the run has."""

import pytest

from orchestrator.cli import follow as following
from orchestrator.errors import InfrastructureError
from orchestrator.handle import Run
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.profile import ClusterProfile


class Quiet:
    """A cluster whose run has nothing more to say, and whose end it knows after so many looks."""

    profile = ClusterProfile(name="train", kind="local", storage="/nowhere")

    def __init__(self, looks):
        self._left = looks

    def logs(self, run_id, follow):
        return iter(())

    def status(self, run_id):
        self._left -= 1
        status = RunStatus(run_id=run_id, state=RunState.RUNNING)
        return (
            status
            if self._left >= 0
            else status.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "all steps", ended_at=1.0)
        )


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr("orchestrator.handle._WAIT_SECONDS", 0)


def test_its_end_is_waited_for():
    assert following.follow(Run("digits-abcdefgh", Quiet(3))) == 0


def test_one_that_does_not_come_is_a_sentence(monkeypatch):
    monkeypatch.setattr(following, "_END_SECONDS", 0.01)
    with pytest.raises(
        InfrastructureError, match="its output has ended, and the cluster does not say yet how"
    ):
        following.follow(Run("digits-abcdefgh", Quiet(10**9)))
