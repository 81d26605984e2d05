"""What is tried when something fails, or will be taken away."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.section import Seconds, Section
from orchestrator.spec.numbers import Positive


class SpikeSpec(Section):
    """When a step's loss is a spike, and what is done then. See docs/checkpoints.md."""

    factor: Annotated[float, Field(gt=1)]
    """How many times the mean of the last ``window`` steps' losses the loss must be; one that is no number is a spike too."""
    window: Annotated[int, Field(ge=2, le=10_000)] = 20
    """Steps that are compared with, spikes not counted; before there are so many none is one."""
    action: Literal["fail", "skip_batch", "rewind"] = "fail"
    """``fail``: end with a sentence. ``skip_batch``: leave the step's update out. ``rewind``: go back to the last checkpoint, and
    from there on leave the step's batch out."""
    most: Positive = 10
    """Batches that may be left out over the whole run; one more ends it."""


class RecoverySpec(Section):
    """What is tried when something fails."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """Restarts after a lost worker or an infrastructure fault. An error in the job's own code is not retried."""
    exclude_nodes_after: Positive = 3
    """Faults of a node's hardware (a GPU, its driver, its links) in one launch, after which no worker is started on it any
    more; more than ``max_failures``: never. On this machine alone there is no other node."""
    worker_start_timeout: Seconds = 600
    """Longest wait for all workers to start."""
    hang_timeout: Seconds = 60
    """How long a worker may stand still beyond the longest step so far. Then the attempt is ended, what all workers do is kept in
    a file of the run that names the one that the others wait for, and the run starts again. A start, a wait for data, an
    evaluation, a save and samples may take ten times as long, where the process answers, and so may any wait of one worker for others."""
    on_notice: Literal["save", "ignore"] = "save"
    """When a worker is told that it will be taken away (its node is drained, its process gets SIGTERM, or the cluster's
    ``notice_file`` appears): finish the step, save, and start again on what is there, which is not counted as a failure; or
    train until it is gone."""
    warm_processes: bool = True
    """While the workers train, a process for each waits on its node with torch loaded, and a restart takes it. It costs about 0.47 GB of
    the node's memory, and nothing of a GPU; ``plan`` says so. On this machine none waits in the first half minute, nor where less
    than twice that is free."""
    spare_workers: Annotated[int, Field(ge=0)] = 0
    """On a Ray cluster: for so many workers room is held beside those that train, which nobody else is given, so that a lost one is
    replaced at once and, where the number of workers may change, the group need not become smaller. They cost what workers
    cost."""
    stop_grace: Seconds = 120
    """How long a graceful stop may take before the run is ended."""
    on_spike: SpikeSpec | None = None
    """What is done when the loss of a step is far above that of the steps before it. Default: nothing is looked for."""
    leave_out: tuple[Positive, ...] = ()
    """Steps whose batches are not trained on: they are counted, and nothing is updated. A resumed run may only name steps that
    are still to come."""
    accept_changed_data: bool = False
    """Go on from a checkpoint though the training data is not what it was trained on; the run's log says what changed.
    What classes, columns, categories and tokens stand for must be what it was. From there on the order is that of the data as it is: of the epoch that had begun, samples may come again or be left
    out."""
    accept_changed_code: bool = False
    """Go on from a checkpoint though the job's own code (``factory`` of the model, the objective, an optimizer or the schedule, and what they import) is not what it was
    trained with; the run's log says which files changed."""
