"""Plans and profiles for tests of clusters."""

from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, RunContext
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile

_FACTS = DataFacts(train_samples=1000, eval_samples=100, dims={"features": 30, "outputs": 2})
_COUNTS = Counts(1000, 6000, 50, (("model/a.weight", 900), ("model/a.bias", 100)))


def plan(run_id="digits-abcdefgh", base_dir="/jobs", storage="s3://bucket/runs/digits-abcdefgh", **sections):
    job = JobSpec.model_validate(
        {
            "name": "digits",
            "model": {"family": "mlp", "size": "debug"},
            "data": {"train": {"kind": "builtin", "name": "breast_cancer"}},
            "training": {"max_steps": 100},
            **sections,
        }
    )
    context = RunContext(
        version="0.1.0",
        run_id=run_id,
        base_dir=str(base_dir),
        storage=str(storage),
        cache="/cache",
        tracking_uri="",
    )
    return make_plan(resolve(job, _FACTS), _FACTS, _COUNTS, context)


def kubernetes_profile(options=None, **sections):
    return ClusterProfile.model_validate(
        {
            "name": "prod",
            "kind": "kubernetes",
            "image": "registry.example/trainwright:0.1.0",
            "ray_version": "2.60.0",
            "storage": "s3://bucket",
            "node_groups": [{"name": "cpu", "cpus": 8, "memory": "32GiB", "max": 4}],
            "kubernetes": {"namespace": "training", **(options or {})},
            **sections,
        }
    )


def ray_profile(address="http://127.0.0.1:1", storage="/nowhere", **sections):
    return ClusterProfile.model_validate(
        {"name": "pool", "kind": "ray", "address": str(address), "storage": str(storage), **sections}
    )
