"""How far a run has come, from the event lines in its driver's output. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator import events
from orchestrator.runs import RunState, RunStatus


def with_progress(status: RunStatus, lines: Iterable[str]) -> RunStatus:
    """The status with the step, metrics, attempt, state and addresses that the output tells of.

    What a status already says of its end is left alone; an event that this version doesn't know is passed over.
    """
    update: dict[str, Any] = {"metrics": dict(status.metrics), "urls": dict(status.urls)}
    state, step = status.state, status.step
    for line in lines:
        event = events.parse(line)
        match event:
            case {"event": "metrics", "step": int(at), "values": dict(values)}:
                step = max(step, at)
                update["metrics"] |= values
                state = RunState.RUNNING if state is RunState.STARTING else state
            case {"event": "attempt", "attempt": int(attempt), "total_steps": int(total)}:
                update |= {"attempt": attempt, "total_steps": total}
            case {"event": "tracking", "url": str(url)}:
                update["urls"]["mlflow"] = url
            case {"event": "waiting", "message": str(message)} if not status.state.is_final:
                update["message"] = message
            case {"event": "end"} if event is not None:
                update |= _end(event, status)
    if not status.state.is_final:
        update["state"] = state
    return status.model_copy(update={"step": step, **update})


def _end(event: dict[str, Any], status: RunStatus) -> dict[str, Any]:
    """What the driver said last: it knows why better than whoever watched its exit code."""
    if not status.state.is_final:
        return {}
    known = RunStatus.model_validate(
        {
            "run_id": status.run_id,
            "state": event["state"],
            "reason": event["reason"],
            "message": event["message"],
            "ended_at": event["time"],
            "metrics": event["metrics"],
        }
    )
    return {name: getattr(known, name) for name in ("state", "reason", "message", "ended_at", "metrics")}
