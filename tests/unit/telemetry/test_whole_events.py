"""Events that Ray has passed on in pieces."""

import json
import sys

import pytest

from orchestrator import events
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus
from orchestrator.telemetry.ledger_keeper import LedgerKeeper
from orchestrator.telemetry.whole_events import WholeEvents

ONE, OTHER = "(RayTrainWorker pid=11) ", "(RayTrainWorker pid=22, ip=10.0.0.2) "
EVENT = "@trainwright " + json.dumps({"event": "metrics", "time": 1.0, "step": 98, "values": {"loss": 0.5}})
TEXT = "loading {1, 2}"


def whole(*lines):
    found = WholeEvents()
    return [*found.of(lines), *found.rest()]


@pytest.mark.parametrize("at", range(len("@trainwright "), len(EVENT)))
def test_an_event_in_two_pieces_is_one_wherever_it_was_cut(at):
    lines = [ONE + EVENT[:at], OTHER + EVENT, "of the driver", ONE + EVENT[at:], ONE + TEXT]
    assert whole(*lines) == [OTHER + EVENT, "of the driver", ONE + EVENT, ONE + TEXT]


def test_an_event_in_many_pieces_is_one():
    assert whole(*(ONE + EVENT[at : at + 20] for at in range(0, len(EVENT), 20))) == [ONE + EVENT]


def test_what_a_kill_has_cut_off_takes_nothing_with_it():
    assert whole(ONE + EVENT[:40], ONE + EVENT) == [ONE + EVENT[:40], ONE + EVENT]
    assert whole(ONE + EVENT[:40]) == [ONE + EVENT[:40]]
    assert whole(EVENT[:40], TEXT) == [EVENT[:40], TEXT]  # of the driver, which nobody passes on


def test_a_driver_writes_and_counts_what_came_in_pieces(tmp_path, capsys):
    status = RunStatus(run_id="run", state=RunState.STARTING, launch=1, submitted_at=0.0)
    with LedgerKeeper(RunRecord(str(tmp_path)), status) as keeper:
        events.emit("state", state="starting", launch=1)
        for piece in (ONE + EVENT[:60], ONE + EVENT[60:], ONE + EVENT[:30]):
            sys.stdout.write(piece)
            sys.stdout.write("\n")
        keeper.ended(2.0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(ONE)]
    assert lines == [ONE + EVENT, ONE + EVENT[:30]]
