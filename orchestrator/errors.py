"""Everything trainwright raises on purpose.

TrainwrightError                 any of the below; ``exit_code`` is what the command line exits with
├── SpecError            (2)     what a person wrote is wrong: file, line, field, and how to mend it
├── UserCodeError        (3)     the job's own code, data or numbers failed (a NaN loss, a wrong dtype)
│   ├── DataError        (3)     the data is not what the job file says
│   └── NotANumberError  (3)     the loss or its gradient is no longer a number
├── InfrastructureError  (4)     the cluster, the storage or the network failed
│   ├── RecordError      (4)     a run's record is damaged
│   ├── SupersededError  (4)     another driver has taken the launch over
│   ├── ResourcesError   (4)     what the job asks for is more than the cluster has
│   ├── HangError        (4)     a worker has not moved for too long
│   ├── NoticeError      (4)     a worker will be taken away, so all have left
│   ├── ResizeError      (4)     the group starts again, larger or with another head, so all have left
│   └── CheckpointError  (4)     no usable checkpoint, or a damaged one
├── StoppedError         (5)     a person or a queue stopped the run
└── NotFoundError        (6)     no such run, cluster or file

Each is raised with one sentence that says what, where, and how to mend it. All pickle, since Ray carries
them between processes.
"""

from __future__ import annotations


class TrainwrightError(Exception):
    """The root of the tree: carries one sentence for a person."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class SpecError(TrainwrightError):
    """A job file, a profile or an override is wrong. Never retried."""

    exit_code = 2


class UserCodeError(TrainwrightError):
    """The job's own code, data or numbers failed; running it again as it is will not help."""

    exit_code = 3


class DataError(UserCodeError):
    """The data is not what the job file says it is."""


class NotANumberError(UserCodeError):
    """The loss or its gradient is no longer a number."""


class InfrastructureError(TrainwrightError):
    """The cluster, the storage or the network failed; running it again may help."""

    exit_code = 4


class SupersededError(InfrastructureError):
    """Another driver has taken the launch over: this one is not to write any more."""


class ResourcesError(InfrastructureError):
    """The job asks for more than the cluster has."""


class HangError(InfrastructureError):
    """A worker has not moved for longer than the job allows; names it where that can be told."""


class NoticeError(InfrastructureError):
    """A worker will be taken away, and had notice: the state is saved, and all have left."""


class ResizeError(InfrastructureError):
    """The group is to have another size, or another head: the state is saved, and all have left."""


class CheckpointError(InfrastructureError):
    """No usable checkpoint, or a damaged one."""


class RecordError(InfrastructureError):
    """A run's record is damaged, or no record of ours."""


class StoppedError(TrainwrightError):
    """A person or a queue stopped the run."""

    exit_code = 5


class NotFoundError(TrainwrightError):
    """No such run, cluster or file."""

    exit_code = 6
