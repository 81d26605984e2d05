"""Plan: everything decided. The only thing that crosses the process boundary, as JSON."""

from __future__ import annotations

import hashlib
import json

from orchestrator.section import Section
from orchestrator.spec.job import JobSpec


class DataFacts(Section):
    """What is known of the data without reading it all: made by ``orchestrator.data.inspect``, given to ``make_plan``."""

    train_samples: int | None = None
    """Training samples, after a split was held out; None where that can't be known before preparation."""
    eval_samples: int | None = None
    """Evaluation samples; 0 where nothing is evaluated."""
    dims: dict[str, int] = {}
    """Sizes that a model takes from the data: ``features``, ``outputs``, ``channels``, ``vocabulary`` ..."""
    lists: dict[str, tuple[int, ...]] = {}
    """Sizes of which there are several: ``cardinalities`` (distinct values of each categorical column)."""

    def fact(self, name: str) -> int | tuple[int, ...] | None:
        """A size by name; None where it isn't known."""
        return self.dims.get(name, self.lists.get(name))


class MemoryEstimate(Section):
    """Bytes on one worker, by what holds them. An estimate: allocator overhead is not in it."""

    parameters: int
    """Parameters in the format they are computed with, and fp32 masters where those are kept beside them."""
    gradients: int
    """Gradients."""
    optimizer: int
    """Moments."""
    activations: int
    """Activations of one micro-batch, kept for the backward."""
    offloaded: int = 0
    """Of the above, what lives in CPU memory or on disk instead of the device."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations


class Plan(Section):
    """A job with nothing left to decide."""

    version: str
    """trainwright's version that made it."""
    run_id: str
    """The run it is for."""
    job: JobSpec
    """The job as written, with every default that depends on something resolved."""
    base_dir: str
    """Folder that the job's relative paths start from."""
    storage: str
    """Root of this run's records and checkpoints: a path or URI that all nodes reach."""
    cache: str
    """Root of prepared data, shared by runs."""
    tracking_uri: str
    """MLflow tracking URI; empty with tracking.kind none."""
    world_size: int
    """Workers."""
    micro_batch_size: int
    """Samples of one forward on one worker."""
    accumulation_steps: int
    """Forwards of one worker in one step."""
    total_steps: int
    """Optimizer steps."""
    train_samples: int
    """Samples of one epoch; 0 where that is known only once the data is prepared (then ``max_steps`` decides)."""
    eval_samples: int
    """Samples of one evaluation; 0 where nothing is evaluated or it is known only once prepared."""
    evaluate_every: int
    """Steps between evaluations; 0: none."""
    sample_every: int
    """Steps between generated samples; 0: none."""
    checkpoint_every: int
    """Steps between checkpoints."""
    parameters: int
    """Parameters of the model."""
    trainable_parameters: int
    """Those that are trained."""
    flops_per_sample: int
    """Floating-point operations of forward and backward for one sample; 0 where the family doesn't count them."""
    memory: MemoryEstimate
    """Bytes on one worker."""
    git_commit: str = ""
    """Commit of the folder that the job's code or file comes from; empty where it is in no repository."""
    notes: tuple[str, ...] = ()
    """What the planner chose or changed, one sentence each."""

    @property
    def batch_equation(self) -> str:
        """The batch arithmetic, as a person checks it."""
        return (
            f"global {self.job.training.global_batch_size} = {self.world_size} workers"
            f" × {self.micro_batch_size} micro × {self.accumulation_steps} accumulation"
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what is planned, whatever the run is called."""
        content = self.model_dump(
            mode="json", exclude={"run_id", "storage", "cache", "tracking_uri", "base_dir", "git_commit"}
        )
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
