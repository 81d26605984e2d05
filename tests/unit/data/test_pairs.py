"""Pairs of texts become tensors; a side that is missing is said with its file and row."""

import json

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data import decode_text, inputs_of
from orchestrator.data.preparations.pairs import PairsKind
from orchestrator.data.preparations.tokenizers import CLASSIFY, END, PAD, tokenizer_from_json, train_bpe
from orchestrator.data.prepare_data import prepare_job
from orchestrator.errors import DataError, SpecError
from orchestrator.planning.plan import DataFacts
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec
from orchestrator.spec.preparations import Pairs

SOURCES = ["one two", "three", "two two three", "one"] * 3
TARGETS = ["uno dos", "tres", "dos dos tres", "uno"] * 3


def section(**options):
    return Pairs.model_validate({"tokenizer": {"kind": "words"}, "context": 5, **options})


def built(asked, sources=SOURCES, targets=TARGETS, base_dir="."):
    whole = pa.table({"source": sources, "target": targets})
    tables = [whole.slice(start, 5) for start in range(0, len(sources), 5)]
    kind = PairsKind()
    fitted = json.loads(json.dumps(kind.fit(asked, tables, base_dir)))
    return pa.concat_tables(list(kind.build(asked, fitted, tables))), fitted


def rows(table, name):
    return np.array(table[name].to_pylist())


def test_both_sides_end_and_are_filled_up():
    table, fitted = built(section(target_context=4))
    tokenizer = tokenizer_from_json(fitted["tokenizer"])
    end, pad = tokenizer.specials[END], tokenizer.specials[PAD]
    tokens, target = rows(table, "tokens"), rows(table, "target")
    assert (tokens.shape, target.shape) == ((12, 5), (12, 4))
    for values, lengths, texts in (
        (tokens, rows(table, "length"), SOURCES),
        (target, rows(table, "target_length"), TARGETS),
    ):
        assert lengths.tolist() == [len(text.split()) + 1 for text in texts]
        for row, length, text in zip(values, lengths, texts, strict=True):
            assert row[length - 1] == end and (row[length:] == pad).all()
            assert tokenizer.decode(row[: length - 1]) == text
    dims = PairsKind().dims(section(target_context=4), fitted)
    assert dims == {
        "context": 5, "target_context": 4, "vocabulary": tokenizer.vocabulary, "start_token": pad, "end_token": end,
    }  # fmt: skip


@pytest.mark.parametrize(
    "tokenizer", [{"kind": "bytes"}, {"kind": "words"}, {"kind": "bpe", "vocabulary": 300}]
)
@pytest.mark.parametrize("own", [None, {"kind": "characters"}])
def test_what_is_known_before_reading_is_what_comes_out(tokenizer, own):
    asked = section(tokenizer=tokenizer, target_tokenizer=own, context=30)
    _, fitted = built(asked)
    before, after = PairsKind().dims_before(asked, "."), PairsKind().dims(asked, fitted)
    sized = ("vocabulary", "target_vocabulary")
    assert {k: v for k, v in after.items() if k not in sized} == {
        k: v for k, v in before.items() if k not in sized
    }
    assert before.get("vocabulary", 10**9) >= after["vocabulary"]
    assert PairsKind().lists_before(asked, ".") == PairsKind().lists(asked, fitted)


def test_a_target_may_have_a_tokenizer_of_its_own():
    asked = section(target_tokenizer={"kind": "characters"}, target_context=14)
    table, fitted = built(asked)
    read, written = (tokenizer_from_json(fitted[name]) for name in ("tokenizer", "target_tokenizer"))
    assert "".join(sorted(set("".join(TARGETS)))) == written.characters
    assert written.decode(rows(table, "target")[0]) == "uno dos"
    dims = PairsKind().dims(asked, fitted)
    assert (dims["vocabulary"], dims["target_vocabulary"]) == (read.vocabulary, written.vocabulary)
    assert dims["end_token"] == written.specials[END]


def test_a_text_that_is_too_long_is_an_error_or_cut_before_its_end():
    with pytest.raises(
        DataError, match=r"row 0: the text in column 'source' has 2 tokens, and 1 fit; .*context, set"
    ):
        built(section(context=2, target_context=9))
    table, fitted = built(section(context=2, target_context=9, long="cut"))
    end = tokenizer_from_json(fitted["tokenizer"]).specials[END]
    assert (rows(table, "tokens")[:, 1] == end).all()


def test_a_begin_token_as_bart_has_it(tmp_path):
    table, fitted = built(section(begin=True))
    begin = tokenizer_from_json(fitted["tokenizer"]).specials[CLASSIFY]
    assert (rows(table, "tokens")[:, 0] == begin).all() and (rows(table, "target")[:, 0] == begin).all()
    library = json.loads(train_bpe(SOURCES, 300, [END]).to_json())["definition"]
    (tmp_path / "t.json").write_text(json.dumps(library))
    file = {"kind": "file", "path": "t.json"}
    with pytest.raises(DataError, match="no token to begin with; set begin: false"):
        built(section(begin=True, tokenizer=file), base_dir=str(tmp_path))
    _, fitted = built(section(tokenizer=file, context=20), base_dir=str(tmp_path))
    dims = PairsKind().dims(section(), fitted)
    assert dims["start_token"] == dims["end_token"], "a decoder begins with the end token where none fills up"
    (tmp_path / "t.json").write_text(json.dumps(json.loads(train_bpe(SOURCES, 300).to_json())["definition"]))
    with pytest.raises(DataError, match="no end-of-text token, which every text ends with"):
        built(section(tokenizer=file), base_dir=str(tmp_path))


def test_a_context_without_room_is_refused():
    with pytest.raises(ValueError, match="target_context must be at least 3: a token of text"):
        section(begin=True, target_context=2)


def job(tmp_path, pairs, model=None, **more):
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in pairs)
    )
    data = {
        "train": {"kind": "jsonl", "path": str(tmp_path / "pairs.jsonl")},
        "prepare": section().model_dump(mode="json"),
    }
    own = {"family": "custom", "factory": "any:thing", "inputs": {"tokens": {}, "target": {}}}
    return JobSpec.model_validate(
        {
            "name": "pairs",
            "model": model or own,
            "objective": {"kind": "sequence_to_sequence"},
            "data": {**data, **more},
            "training": {"max_steps": 1, "global_batch_size": 2},
        }
    )


PAIRS = [*zip(SOURCES, TARGETS, strict=True)]


@pytest.mark.parametrize(
    ("bad", "column"), [(("", "x"), "source"), (("one", " "), "target"), ((None, "x"), "source")]
)
def test_an_empty_side_is_said_with_file_and_row_and_can_be_skipped(tmp_path, bad, column):
    pairs = [*PAIRS[:3], bad, *PAIRS[3:]]
    asked = job(tmp_path, pairs)
    with pytest.raises(DataError, match=rf"pairs\.jsonl, row 3: column '{column}' has no value there"):
        prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    asked = job(tmp_path, pairs, skip_bad_samples=1)
    prepared = prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    assert prepared.train_samples == len(PAIRS)
    assert any(
        "1 of 13 training rows lack source or target, or don't fit, and are skipped" in note
        for note in prepared.notes
    )


@pytest.mark.parametrize(
    ("bad", "side"),
    [(("one " * 5, "uno"), r"'source' has 5 tokens"), (("one", "uno " * 6), r"'target' has 6 tokens")],
)
def test_a_pair_that_is_too_long_is_said_with_file_and_row_and_can_be_skipped(tmp_path, bad, side):
    pairs = [*PAIRS[:3], bad, ("", "x"), *PAIRS[3:]]
    asked = job(tmp_path, [*PAIRS[:3], bad, *PAIRS[3:]])
    with pytest.raises(DataError, match=rf"pairs\.jsonl, row 3: the text in column {side}, and 4 fit; raise"):
        prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    with pytest.raises(DataError, match=rf"row 3: the text .* {side}, and 4 fit; .* \(now 1\) allow some"):
        prepare_job(job(tmp_path, pairs, skip_bad_samples=1), str(tmp_path), str(tmp_path / "cache"))
    prepared = prepare_job(job(tmp_path, pairs, skip_bad_samples=2), str(tmp_path), str(tmp_path / "cache"))
    assert prepared.train_samples == len(PAIRS)
    assert any("2 of 14 training rows" in note for note in prepared.notes)


def test_a_job_s_sizes_and_texts_come_from_its_pairs(tmp_path):
    asked = job(tmp_path, PAIRS)
    prepared = prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    resolved = resolve(asked, DataFacts(dims=prepared.dims, lists=prepared.lists, tensors=prepared.tensors))
    assert (resolved.model.context, resolved.model.target_context) == (5, 5)
    assert (resolved.objective.start_token, resolved.objective.end_token) == (0, 2)
    inputs = inputs_of(resolved, prepared)
    read = inputs.read(["two one"])
    assert decode_text(prepared, read["tokens"][0], read=True) == "two one"
    assert read["length"].tolist() == [3] and read["tokens"][0, 2] == 2
    assert inputs.columns == ("source",)
    tokens = inputs.tokenizer().encode(["dos uno"])[0].tolist()
    assert inputs.written([*tokens, 2, tokens[0]]) == "dos uno"


def test_an_architecture_s_own_start_token_goes_before_the_data_s(tmp_path):
    theirs = {
        "family": "huggingface", "architecture": "any", "head": "seq2seq",
        "config": {"model_type": "bart", "decoder_start_token_id": 2}, "vocabulary": 50,
        "inputs": {"tokens": {}, "target": {}},
    }  # fmt: skip
    asked = job(tmp_path, PAIRS, theirs)
    prepared = prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
    facts = DataFacts(dims=prepared.dims, lists=prepared.lists, tensors=prepared.tensors)
    assert resolve(asked, facts).objective.start_token == 2
    other = asked.model_copy(update={"objective": asked.objective.model_copy(update={"start_token": 0})})
    with pytest.raises(SpecError, match=r"objective\.start_token: is 0, but"):
        resolve(other, facts)
    with pytest.raises(ValueError, match="one vocabulary for what it reads and what it writes"):
        job(
            tmp_path, PAIRS, theirs, prepare={**section().model_dump(), "target_tokenizer": {"kind": "bytes"}}
        )


def test_data_that_is_no_pairs_is_told_what_makes_them(tmp_path):
    asked = job(tmp_path, PAIRS, prepare=None)
    with pytest.raises(SpecError, match=r"add prepare: \{kind: pairs, source: COLUMN, target: COLUMN"):
        prepare_job(asked, str(tmp_path), str(tmp_path / "cache"))
