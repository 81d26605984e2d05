"""The profile that a release gives to people, and a small job for it."""

from __future__ import annotations

import yaml

from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, RunContext
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile


def profile_of(objects) -> ClusterProfile:
    """The profile in a release's ConfigMap."""
    (config,) = [
        o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"].endswith("-profile")
    ]
    return ClusterProfile.model_validate(yaml.safe_load(config["data"]["profile.yaml"]))


def plan_for(profile, workers: int, gpus: int):
    """A small MLP on the profile's storage."""
    facts = DataFacts(train_samples=1000, eval_samples=100, dims={"features": 30, "outputs": 2})
    job = JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "size": "debug"},
            "data": {
                "train": {"kind": "builtin", "name": "breast_cancer"},
                "eval": {"kind": "split", "fraction": 0.1},
            },
            "training": {"max_steps": 100, "global_batch_size": 16 * workers},
            "scaling": {"workers": workers, "gpus_per_worker": gpus, "cpus_per_worker": 1},
        }
    )
    counts = Counts(1000, 6000, 50, (("model/a.weight", 900), ("model/a.bias", 100)))
    folders = {
        "base_dir": "/b",
        "storage": f"{profile.storage}/runs/job-x",
        "cache": f"{profile.storage}/cache",
    }
    context = RunContext(version="0.1.0", run_id="job-x", tracking_uri=profile.mlflow or "", **folders)
    return make_plan(resolve(job, facts), facts, counts, context)
