"""One job file trains a deep-learning model on a laptop, a Ray cluster or Kubernetes.

::

    import orchestrator
    run = orchestrator.submit("examples/digits-cnn.yaml")
    run.wait()
    print(run.status().metrics)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.planning.plan import Plan
    from orchestrator.runs import EndReason, RunState, RunStatus
    from orchestrator.sdk import Run, attach, delete, list_runs, make_plan, prune, submit, upload, usage
    from orchestrator.spec.job import JobSpec
    from orchestrator.spec.load import load_profile, load_spec
    from orchestrator.spec.profile import ClusterProfile

__version__ = "0.1.0"

_PUBLIC = {
    "ClusterProfile": "orchestrator.spec.profile",
    "EndReason": "orchestrator.runs",
    "JobSpec": "orchestrator.spec.job",
    "Plan": "orchestrator.planning.plan",
    "Run": "orchestrator.sdk",
    "RunState": "orchestrator.runs",
    "RunStatus": "orchestrator.runs",
    "attach": "orchestrator.sdk",
    "delete": "orchestrator.sdk",
    "list_runs": "orchestrator.sdk",
    "load_profile": "orchestrator.spec.load",
    "load_spec": "orchestrator.spec.load",
    "make_plan": "orchestrator.sdk",
    "prune": "orchestrator.sdk",
    "submit": "orchestrator.sdk",
    "upload": "orchestrator.sdk",
    "usage": "orchestrator.sdk",
}

__all__ = [
    "ClusterProfile",
    "EndReason",
    "JobSpec",
    "Plan",
    "Run",
    "RunState",
    "RunStatus",
    "attach",
    "delete",
    "list_runs",
    "load_profile",
    "load_spec",
    "make_plan",
    "prune",
    "submit",
    "upload",
    "usage",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: importing the package alone loads nothing heavy."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
