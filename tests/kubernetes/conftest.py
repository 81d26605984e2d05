"""One control plane of real processes for all tests of this folder; without its binaries each test is skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import control_plane as control_planes
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "fakes"), str(HERE.parent / "chart")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in this folder where no control plane can be started."""
    if reason := control_planes.missing():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory) -> Iterator[control_planes.ControlPlane]:
    """The control plane, on the loopback address."""
    with control_planes.running(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane
