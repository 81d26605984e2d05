import json

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.preparations.pack import PackKind
from orchestrator.data.preparations.tokenize import TokenizeKind
from orchestrator.data.preparations.tokenizers import END, MASK, PAD, UNKNOWN, tokenizer_from_json, train_bpe
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Pack, Tokenize

TEXT = ["the cat sat on the mat\n", "the dog sat too\n", "\n", "and so did the bird\n"] * 5


def tables(texts=TEXT, **more):
    whole = pa.table({"text": texts, **more})
    return [whole.slice(start, 3) for start in range(0, len(texts), 3)]


def run(kind, section, train, held=None, base_dir="."):
    fitted = json.loads(json.dumps(kind.fit(section, train, base_dir)))
    return pa.concat_tables(list(kind.build(section, fitted, held or train))), fitted


def rows(table, name):
    return np.array(table[name].to_pylist())


def pack_section(**options):
    return Pack.model_validate({"tokenizer": {"kind": "characters"}, "context": 8, **options})


def test_lines_packed_without_separator_are_the_text():
    table, fitted = run(PackKind(), pack_section(separator=False), tables())
    tokenizer = tokenizer_from_json(fitted["tokenizer"])
    sequences = rows(table, "tokens")
    assert table.schema.field("tokens").type == pa.list_(pa.uint8(), 9)
    whole = tokenizer.decode(np.concatenate([sequences[:1, 0], sequences[:, 1:].ravel()]))
    assert whole == "".join(TEXT)[: len(whole)]
    assert len("".join(TEXT)) - len(whole) < 8
    assert not tokenizer.specials


def test_sequences_do_not_depend_on_the_batches_read():
    section = pack_section(document=True, word=True)
    one, _ = run(PackKind(), section, tables())
    other, _ = run(PackKind(), section, [pa.table({"text": TEXT})])
    for name in ("tokens", "document", "word"):
        np.testing.assert_array_equal(rows(one, name), rows(other, name))


def test_the_tokenizer_is_fitted_on_the_training_rows_alone():
    with pytest.raises(DataError, match="not in the training text's vocabulary"):
        run(PackKind(), pack_section(), tables(), tables(["ZEBRA ZEBRA"]))
    section = pack_section(tokenizer={"kind": "characters", "unknown": True})
    table, fitted = run(PackKind(), section, tables(), tables(["ZEBRA ZEBRA"]))
    unknown = tokenizer_from_json(fitted["tokenizer"]).specials[UNKNOWN]
    assert (rows(table, "tokens")[0, :5] == unknown).all()


def test_a_masked_model_s_sequences_do_not_overlap_and_its_tokenizer_has_a_mask():
    section = pack_section(next_token=False, tokenizer={"kind": "bpe", "vocabulary": 300})
    table, fitted = run(PackKind(), section, tables())
    assert rows(table, "tokens").shape[1] == 8
    dims, lists = PackKind().dims(section, fitted), PackKind().lists(section, fitted)
    assert dims["mask_token"] in lists["special_tokens"]
    assert tokenizer_from_json(fitted["tokenizer"]).specials[MASK] == dims["mask_token"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"kind": "bytes"},
        {"kind": "characters"},
        {"kind": "characters", "unknown": True},
        {"kind": "words", "vocabulary": 50},
        {"kind": "bpe", "vocabulary": 300},
    ],
)
@pytest.mark.parametrize("next_token", [True, False])
def test_what_is_known_before_reading_is_what_comes_out(tokenizer, next_token):
    for kind, section in (
        (PackKind(), pack_section(tokenizer=tokenizer, next_token=next_token)),
        (TokenizeKind(), Tokenize.model_validate({"tokenizer": tokenizer, "context": 32})),
    ):
        _, fitted = run(kind, section, tables())
        before, after = kind.dims_before(section, "."), kind.dims(section, fitted)
        assert {k: v for k, v in after.items() if k in before and k != "vocabulary"} == {
            k: v for k, v in before.items() if k != "vocabulary"
        }
        assert before.get("vocabulary", 10**9) >= after["vocabulary"]
        assert kind.lists_before(section, ".") == kind.lists(section, fitted)


def test_texts_with_labels_become_padded_rows():
    section = Tokenize.model_validate(
        {"tokenizer": {"kind": "words"}, "context": 6, "label": "kind", "word": True}
    )
    table, fitted = run(TokenizeKind(), section, tables(kind=["cat", "dog", "none", "bird"] * 5))
    tokenizer = tokenizer_from_json(fitted["tokenizer"])
    assert fitted["classes"] == ["bird", "cat", "dog", "none"]
    assert rows(table, "label")[:4].tolist() == [1, 2, 3, 0]
    assert TokenizeKind().dims(section, fitted)["outputs"] == 4
    tokens, length, word = rows(table, "tokens"), rows(table, "length"), rows(table, "word")
    assert length[:4].tolist() == [
        6,
        6,
        2,
        6,
    ]  # cut: six words and the line end, with the classification token
    assert (tokens[:, 0] == tokenizer.specials["<cls>"]).all()
    assert tokenizer.decode(tokens[0]) == "the cat sat on the"
    assert tokens[2, 2:].tolist() == [tokenizer.specials[PAD]] * 4
    assert word[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert word[2].tolist() == [0, 1, -1, -1, -1, -1]


def test_a_label_unseen_in_training_is_a_sentence():
    section = Tokenize.model_validate({"tokenizer": {"kind": "bytes"}, "context": 50, "label": "kind"})
    with pytest.raises(DataError, match="'kind' has values that no training row has, for example 'z'"):
        run(TokenizeKind(), section, tables(["a"], kind=["x"]), tables(["a"], kind=["z"]))


def test_a_tokenizer_file_is_taken_as_it_is(tmp_path):
    library = json.loads(train_bpe(TEXT, 300, [END]).to_json())
    (tmp_path / "tokenizer.json").write_text(json.dumps(library["definition"]))
    (tmp_path / "saved.json").write_text(json.dumps(library))
    results = []
    for name in ("tokenizer.json", "saved.json"):
        section = pack_section(tokenizer={"kind": "file", "path": name})
        table, _ = run(PackKind(), section, tables(), base_dir=str(tmp_path))
        results.append(rows(table, "tokens"))
        assert (
            PackKind().dims_before(section, str(tmp_path))["vocabulary"] == 284
        )  # as many as the small corpus gives
    np.testing.assert_array_equal(*results)


def test_what_a_tokenizer_file_lacks_is_a_sentence(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(json.loads(train_bpe(TEXT, 300).to_json())["definition"]))
    wanted = {"kind": "file", "path": "t.json"}
    with pytest.raises(DataError, match=r"no end-of-text token .*separator: false"):
        run(PackKind(), pack_section(tokenizer=wanted), tables(), base_dir=str(tmp_path))
    with pytest.raises(DataError, match="no classification token; set classify: false"):
        run(
            TokenizeKind(),
            Tokenize.model_validate({"tokenizer": wanted, "context": 9}),
            tables(),
            base_dir=str(tmp_path),
        )
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(DataError, match=r"t\.json: this is not a Hugging Face tokenizers file"):
        run(PackKind(), pack_section(tokenizer=wanted), tables(), base_dir=str(tmp_path))


def test_a_column_that_is_no_text_is_a_sentence():
    with pytest.raises(DataError, match="column 'text' is int64, not text"):
        run(PackKind(), pack_section(), [pa.table({"text": [1, 2]})])
    with pytest.raises(DataError, match="no column 'body'; the data has text"):
        run(PackKind(), pack_section(column="body"), tables())


def test_overlap_must_leave_something_new():
    with pytest.raises(ValueError, match="overlap 8 must be less than context 8"):
        pack_section(overlap=8)
