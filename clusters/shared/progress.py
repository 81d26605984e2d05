"""How far a run has come, from the event lines in its driver's output. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator import events
from orchestrator.runs import Best, EndReason, RunState, RunStatus, Spares


def with_progress(status: RunStatus, lines: Iterable[str], *, told_end_holds: bool = False) -> RunStatus:
    """The status with the step, metrics, attempt, state and addresses that the output tells of.

    Of an end, what the driver said last is taken: it knows why better than whoever watched its exit code. An event
    that this version doesn't know is passed over.

    Args:
        status: as the cluster tells it.
        lines: of the driver's output.
        told_end_holds: an end that nothing comes after is one also where the cluster has not seen it yet.

    """
    end = None
    for event in filter(None, map(events.parse, lines)):
        match event:
            case {"event": "metrics", "step": int(step), "values": dict(values)}:
                status = status.reached(max(step, status.step), status.attempt, values)
            case {"event": "attempt", "attempt": int(attempt), "total_steps": int(total_steps)}:
                status, end = status.in_attempt(attempt, total_steps), None
            case {"event": "checkpoint", "best": dict(best)}:
                status = status.with_best(Best.model_validate(best))
            case {"event": "ledger", "effective": float(share)}:
                status = status.with_effective(share)
            case {"event": "node_fault", "node": str(node), "is_left_out": True}:
                status = status.without_nodes([node])
            case {"event": "spares", "held": int(held), "of": int(of)}:
                status = status.with_spares(Spares(held=held, of=of))
            case {"event": "tracking", "url": str(url)}:
                status = status.with_urls({"mlflow": url})
            case {"event": "waiting", "message": str(message)} if not status.state.is_final:
                status = status.saying(message)
            case {"event": "end", "state": str(), "reason": str()}:
                end = event
    if end is None or not (status.state.is_final or told_end_holds):
        return status
    status = status.reached(max(end.get("step", 0), status.step), status.attempt, {})  # not each is logged
    state, reason = RunState(end["state"]), EndReason(end["reason"])
    return status.ended(state, reason, end["message"], ended_at=end["time"], metrics=end["metrics"])
