"""What a run keeps in its storage for whoever asks its model: the plan, how rows become inputs, the code."""

from __future__ import annotations

from orchestrator.checkpoint import Checkpoint
from orchestrator.data import INPUTS
from orchestrator.errors import NotFoundError
from orchestrator.own_code import OwnCode
from orchestrator.planning.plan import Plan
from orchestrator.records import PLAN, RunRecord
from orchestrator.storage import store_at


def plan_of(storage: str, run_id: str) -> Plan:
    """The plan that a run was first launched with. Raises NotFoundError where it keeps none."""
    try:
        return Plan.model_validate_json(store_at(storage).read(PLAN)).moved_to(storage)
    except FileNotFoundError:
        raise NotFoundError(f"{run_id} keeps no {PLAN}: it was not started, or by an older version") from None


def inputs_of(storage: str, run_id: str) -> bytes:
    """How rows become what its model takes, as JSON. Raises NotFoundError where it did not prepare its data."""
    try:
        return store_at(storage).read(INPUTS)
    except FileNotFoundError:
        raise NotFoundError(f"{run_id} keeps no {INPUTS}: its data was not prepared") from None


def code_of(storage: str, run_id: str, saved: Checkpoint) -> OwnCode:
    """The person's own files that a checkpoint of it was trained with. Raises NotFoundError where they are gone."""
    try:
        return RunRecord(storage).code(saved.meta["code"])
    except FileNotFoundError:
        raise NotFoundError(f"{run_id} no longer keeps the code of its model") from None
