import json
from pathlib import Path

import pytest

from orchestrator.models import FAMILIES
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec
from orchestrator.spec.schema import json_schema

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
RECIPES = sorted((ROOT / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", [*EXAMPLES, *RECIPES], ids=lambda path: path.stem)
def test_a_job_file_is_valid_and_named_as_its_file(path):
    job = load_spec(path)
    assert job.name == path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_it_does_and_reaches_and_needs_no_download(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    comment = [line for line in lines[1:] if line.startswith("#")]
    assert any("Reaches" in line for line in comment), "an example states its measured result"
    sources = load_spec(path).data.train
    for source in sources if isinstance(sources, tuple) else (sources,):
        assert source.kind in ("builtin", "pipeline")  # a pipeline of an example makes its rows


def test_every_family_has_an_example():
    families = {load_spec(path).model.family for path in EXAMPLES}
    assert families >= FAMILIES.keys()


def test_the_schema_that_editors_read_is_the_current_one():
    kept = json.loads((ROOT / "docs" / "job.schema.json").read_text())
    assert kept == json_schema(JobSpec), "run: trainwright schema > docs/job.schema.json"
