"""How pytest runs while mutants are tried: the first failure is enough, so the quickest tests come first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import Phase, settings

STATS = Path("mutmut-stats.json")
"""What mutmut measured before it began, in the folder of mutants that the tests run in."""

# the same examples for each mutant, none made smaller: nobody reads them
settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by how long they took."""
    if STATS.exists():
        seconds = json.loads(STATS.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
