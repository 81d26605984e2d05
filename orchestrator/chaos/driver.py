"""``python -m orchestrator.chaos.driver``: the driver as it is, with a witness in each worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from orchestrator import driver, ray_session

COMMAND = ("-m", "orchestrator.chaos.driver")
"""What Python is given to run."""


def work(config: Mapping[str, Any]) -> dict[str, Any]:
    """In each worker's process, which alone imports torch."""
    from orchestrator.chaos.witness import watch

    return ray_session.train_on_worker(config, watch)


if __name__ == "__main__":
    from orchestrator.chaos import driver as named  # under its own name, so that workers find it

    sys.exit(driver.main(work=named.work))
