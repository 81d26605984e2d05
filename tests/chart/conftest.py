"""The search path, on which pytest puts this folder so that tests import ``chartkit``, and a release on a fake API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chartkit.fake_api import running
from chartkit.release import Release


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    """A release, not yet installed, on an API server with one StorageClass and no node."""
    with running(tmp_path) as (api, kubeconfig):
        yield Release(api, kubeconfig, tmp_path)
