"""What all tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gpu_runs import DEVICE

from orchestrator.strategies.single_process import SingleProcessGroup

_OF_OTHERS = (
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",  # by torch itself, as DeepSpeed compiles
    "ignore:`torch.distributed.*is deprecated:FutureWarning",  # DeepSpeed calls by the names of before
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",  # torch.compile looks at all that a tensor has
)
"""Warnings of others. Elsewhere what says them runs in processes of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(*_OF_OTHERS))


@pytest.fixture(scope="session", autouse=True)
def group_of_one() -> Iterator[None]:
    """One group for all tests of a process, as a worker has one: DeepSpeed remembers groups, and finds none made anew."""
    group = SingleProcessGroup(torch.device(DEVICE))
    yield
    group.close()
