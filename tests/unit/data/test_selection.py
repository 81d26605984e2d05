import pyarrow as pa
import pytest

from orchestrator.data.preparations.select import SelectKind
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Select

TABLES = [
    pa.table({"label": [0, 9, 1], "name": ["a", "b", "c"]}),
    pa.table({"label": [9, 9], "name": ["a", "d"]}),
]


def kept(**rule):
    return pa.concat_tables(SelectKind().build(Select(**rule), {}, TABLES)).to_pydict()


def test_rows_with_and_without_some_values():
    assert kept(column="label", without=(9,)) == {"label": [0, 1], "name": ["a", "c"]}
    assert kept(column="name", only=("a", "d")) == {"label": [0, 9, 9], "name": ["a", "a", "d"]}


def test_bad_rules_are_sentences():
    with pytest.raises(ValueError, match="exactly one of only and without"):
        Select(column="label")
    with pytest.raises(DataError, match="no column 'color'; the data has label, name"):
        kept(column="color", only=(1,))
    with pytest.raises(DataError, match="column 'label' is int64, which none of the named values is"):
        kept(column="label", only=("nine",))
