"""``python -m orchestrator.chaos.driver``: the driver as it is, with a witness in each worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator import driver, ray_session
from orchestrator.chaos.places import Places
from orchestrator.planning.plan import Plan

COMMAND = ("-m", "orchestrator.chaos.driver")
"""What Python is given to run."""


def work(config: Mapping[str, Any]) -> dict[str, Any]:
    """In each worker's process, which alone imports torch."""
    from orchestrator.chaos.witness import watch

    return ray_session.train_on_worker(config, watch)


def room(plan: Plan) -> Callable[[], int] | None:
    """For how many workers this machine is to have room, as the schedule changes it; None where it doesn't."""
    places = Places(plan.storage)
    return None if places.room() is None else lambda: places.room() or 0


if __name__ == "__main__":
    from orchestrator.chaos import driver as named  # under its own name, so that workers find it

    sys.exit(driver.main(work=named.work, room=named.room))
