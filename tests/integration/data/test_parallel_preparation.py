import os

import pyarrow as pa
import pytest

from orchestrator.data.preparations.pack import PackKind
from orchestrator.data.preparations.parallel import map_in_order
from orchestrator.data.preparations.tokenize import TokenizeKind
from orchestrator.spec.preparations import Pack, Tokenize

TABLES = [
    pa.table({"text": [f"text {n} of table {t}, and some more words" for n in range(7)]}) for t in range(40)
]


@pytest.fixture(scope="module")
def ray_here():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def built():
    sections = {
        PackKind: Pack.model_validate({"tokenizer": {"kind": "bpe", "vocabulary": 300}, "context": 16}),
        TokenizeKind: Tokenize.model_validate(
            {"tokenizer": {"kind": "characters"}, "context": 24, "long": "cut"}
        ),
    }
    return [
        pa.concat_tables(kind().build(section, kind().fit(section, TABLES, "."), TABLES))
        for kind, section in sections.items()
    ]


IN_PROCESS = built()


@pytest.mark.ray
def test_many_tables_go_to_other_processes_and_come_back_in_order(ray_here):
    def told(table, word):
        return os.getpid(), table["text"][0].as_py(), word

    found = list(map_in_order(told, TABLES, "word"))
    assert [text for _, text, _ in found] == [table["text"][0].as_py() for table in TABLES]
    assert os.getpid() not in {pid for pid, _, _ in found}
    few = list(map_in_order(told, TABLES[:10], "word"))
    assert {pid for pid, _, _ in few} == {os.getpid()}


@pytest.mark.ray
def test_a_corpus_tokenised_by_tasks_is_the_same(ray_here):
    assert built() == IN_PROCESS
