"""Plan: everything decided. The only thing that crosses the process boundary, as JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import model_validator

from orchestrator.models.configs import ObjectiveSection
from orchestrator.planning.question import Question
from orchestrator.runs import RunId
from orchestrator.section import Section
from orchestrator.spec.job import JobSpec
from orchestrator.spec.strategy import DdpStrategy, StrategySection


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
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    """Of each tensor that the data makes: ``float`` or ``int``, and the shape of a sample's; empty where that can't be
    known before preparation."""
    notes: tuple[str, ...] = ()
    """What was found of the data that the job does not say, in sentences for the plan's notes."""

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
    averages: int = 0
    """Moving averages of the weights."""
    activations: int
    """Activations of one micro-batch, kept for the backward."""
    offloaded: int = 0
    """Of the above, what lives in CPU memory or on disk instead of the device."""

    @property
    def by_part(self) -> dict[str, int]:
        """What holds how much; averages only where they are kept."""
        parts = {name: getattr(self, name) for name in MemoryEstimate.model_fields if name != "offloaded"}
        return {name: size for name, size in parts.items() if size or name != "averages"}

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.by_part.values())


class ResolvedJob(JobSpec):
    """A job whose objective and model are complete: made by ``planning.resolve``."""

    objective: ObjectiveSection
    """What to minimize."""
    strategy: StrategySection = DdpStrategy()
    """How training is distributed, with nothing left to decide."""

    @model_validator(mode="after")
    def _is_complete(self) -> ResolvedJob:
        for section, config, needed in (
            ("model", self.model, self.model.needed(self.objective)),
            ("objective", self.objective, self.objective.FROM_DATA),
        ):
            for field in needed:
                if getattr(config, field) is None:
                    raise ValueError(
                        f"{section}.{field} is not known yet; resolve the job from its data first"
                    )
        return self


class Weighed(Section):
    """A strategy that ``strategy: auto`` looked at."""

    strategy: StrategySection
    """The strategy."""
    sent: int
    """Bytes that a worker sends in a step, by the formula."""
    needed: int
    """Bytes that a worker takes at most."""
    fits: bool
    """Whether the device has room for it."""


class GroupSize(Section):
    """A number of workers, and how each step's global batch is divided among so many."""

    workers: int
    """Workers."""
    micro_batch_size: int
    """Samples of one forward on one worker."""
    accumulation_steps: int
    """Forwards of one worker in one step."""
    memory: MemoryEstimate
    """Bytes on one worker."""


class RunContext(Section):
    """Which run a plan is for, what made it, and where it lives: nothing that changes what is trained."""

    version: str
    """trainwright's version that made the plan."""
    run_id: RunId
    """The run it is for."""
    base_dir: str
    """Folder that the job's relative paths start from."""
    storage: str
    """Root of this run's records and checkpoints: a path or URI that all nodes reach."""
    cache: str
    """Root of prepared data, shared by runs."""
    tracking_uri: str
    """MLflow tracking URI; empty with tracking.kind none."""
    git_commit: str = ""
    """Commit of the folder that the job's code or file comes from; empty where it is in no repository."""
    user: str = ""
    """Who planned it, by the name on their machine."""
    cluster: str = ""
    """Name of the profile of the cluster that it was planned for."""
    notice_file: str = ""
    """A file whose appearance on a node says that it will be taken away; empty where none is looked for."""
    resume_from: str = "newest"
    """The checkpoint that the launch goes on from: ``newest``, ``best`` or the number of a step."""


_COUNTED = ("parameters", "trainable_parameters", "flops_per_sample", "memory")
"""Fields of a plan that are counted of its model."""
_TOLD = ("weighed", "notes")
"""Fields of a plan that say how it was come to."""


class Plan(RunContext):
    """A job with nothing left to decide."""

    job: ResolvedJob
    """The job as written, with its objective, its strategy and every size of its model. What else it leaves open is decided below."""
    world_size: int
    """Workers; where their number may change, the most."""
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
    """Steps between generated samples; 0: none, as where nothing is evaluated."""
    checkpoint_every: int
    """Steps between checkpoints."""
    parameters: int
    """Parameters of the model; 0 where it is counted once the run begins, with what follows from them."""
    trainable_parameters: int
    """Those that are trained."""
    flops_per_sample: int
    """Floating-point operations of forward and backward for one sample; 0 where the family doesn't count them."""
    memory: MemoryEstimate
    """Bytes on one worker."""
    sizes: tuple[GroupSize, ...] = ()
    """Every size that the group of workers may have, the smallest first; empty where their number is fixed."""
    weighed: tuple[Weighed, ...] = ()
    """What ``strategy: auto`` was decided from; empty where the job names its strategy."""
    notes: tuple[str, ...] = ()
    """What the planner chose or changed, one sentence each."""
    question: Question | None = None
    """What is asked of a trained model; None: this launch trains one."""

    @property
    def batch_equation(self) -> str:
        """The batch arithmetic, as a person checks it."""
        return (
            f"global {self.job.training.global_batch_size} = {self.world_size} workers"
            f" × {self.micro_batch_size} micro × {self.accumulation_steps} accumulation"
        )

    @property
    def least_workers(self) -> int:
        """Workers without which the run waits."""
        return self.sizes[0].workers if self.sizes else self.world_size

    def largest_within(self, room: int) -> int | None:
        """The most workers that a group may have where there is room for so many; None where that is too few."""
        sizes = [size.workers for size in self.sizes] or [self.world_size]
        return max((workers for workers in sizes if workers <= room), default=None)

    def with_workers(self, workers: int) -> Plan:
        """The plan of a group of so many workers, whose number is fixed; itself where it is so already.

        Raises ValueError where the group may not have this size.
        """
        if not self.sizes:
            return self
        found = next((size for size in self.sizes if size.workers == workers), None)
        if found is None:
            raise ValueError(f"{workers} is none of the sizes that the plan has")
        scaling = self.job.scaling.model_copy(update={"workers": workers})
        divided = {name: getattr(found, name) for name in GroupSize.model_fields if name != "workers"}
        job = self.job.model_copy(update={"scaling": scaling})
        return self.model_copy(update={**divided, "job": job, "world_size": workers, "sizes": ()})

    @property
    def extremes(self) -> tuple[Plan, ...]:
        """The plans of the smallest and the largest group; itself where the number of workers is fixed."""
        if not self.sizes:
            return (self,)
        numbers = dict.fromkeys((self.least_workers, self.world_size))
        return tuple(self.with_workers(workers) for workers in numbers)

    @property
    def context(self) -> RunContext:
        """Which run it is for, without what was decided."""
        return RunContext.model_validate(self.model_dump(include=set(RunContext.model_fields)))

    def moved_to(self, storage: str) -> Plan:
        """The plan of a run that is found elsewhere than it was submitted: the home around it has moved along."""
        inside = f"/runs/{self.run_id}"
        old, new = self.storage.removesuffix(inside), storage.removesuffix(inside)
        moved = {"cache": self.cache, "tracking_uri": self.tracking_uri}
        moved = {name: f"{place}/".replace(f"{old}/", f"{new}/", 1)[:-1] for name, place in moved.items()}
        return self if storage == self.storage else self.model_copy(update={**moved, "storage": storage})

    @property
    def digest(self) -> str:
        """SHA-256 of what is planned, whatever the run is called and whichever client planned it: every field but those of
        ``RunContext`` and what only tells of the plan, and the version, since another one may mean something else by the
        same fields. What is counted follows from the job, and a client without torch doesn't count; of a model of
        one's own it tells of the code.
        """
        left_out: dict[str, Any] = dict.fromkeys({*RunContext.model_fields, *_TOLD} - {"version"}, True)
        if not self.job.model_factories:
            left_out |= dict.fromkeys(_COUNTED, True) | {"sizes": {"__all__": {"memory"}}}
        content = self.model_dump(mode="json", exclude=left_out)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
