"""Registries: every entry of every table is there, nothing is imported before its use, a misspelt name is helped."""

import subprocess
import sys

import pytest

from orchestrator.clusters import BACKENDS
from orchestrator.data.preparations import PREPARATIONS
from orchestrator.data.sources.formats import FORMATS
from orchestrator.data.transforms import TRANSFORMS
from orchestrator.errors import SpecError
from orchestrator.models import FAMILIES
from orchestrator.models.objectives import OBJECTIVES
from orchestrator.registry import load
from orchestrator.strategies import STRATEGIES

TABLES = [BACKENDS, FAMILIES, FORMATS, OBJECTIVES, PREPARATIONS, STRATEGIES, TRANSFORMS]


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in TABLES for name in table], ids=lambda part: str(part)[:20]
)
def test_what_a_table_names_is_there(table, name):
    assert callable(load(table, name, "thing"))


def test_a_misspelt_name_is_helped():
    with pytest.raises(SpecError) as refused:
        load(STRATEGIES, "fspd", "strategy")
    assert str(refused.value) == "no such strategy: 'fspd'; did you mean 'fsdp'?"


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(SpecError, match="no such strategy: 'horovod'; there is ddp, fsdp, zero"):
        load(STRATEGIES, "horovod", "strategy")


def test_tables_import_nothing_before_use():
    code = (
        "import sys, orchestrator.models.objectives, orchestrator.strategies, orchestrator.clusters;"
        "sys.exit(bool({'torch', 'deepspeed', 'ray', 'kubernetes'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
