"""The batches of every format stay what they are, bit for bit, whatever is rebuilt; on any number of workers."""

import pytest
from golden_batches import CASES, GOLDEN, batches_digest, case_data


@pytest.mark.parametrize("name", CASES)
def test_batches_of_every_format_are_those_written_down(name, tmp_path):
    family, spec = case_data(name, tmp_path / "source")
    assert batches_digest(family, spec, tmp_path) == GOLDEN[name]
    assert batches_digest(family, spec, tmp_path, workers=2) == GOLDEN[name]  # from the cache
