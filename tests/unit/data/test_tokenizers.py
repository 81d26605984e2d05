import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.preparations.tokenizers import (
    CLASSIFY,
    END,
    MASK,
    PAD,
    UNKNOWN,
    ByteTokenizer,
    CharacterTokenizer,
    LibraryTokenizer,
    tokenizer_from_json,
    train_bpe,
    train_smiles,
    train_words,
)
from orchestrator.errors import DataError

CORPUS = [
    "To be, or not to be: that is the question.\n",
    "Whether 'tis nobler in the mind to suffer",
    "née ✓ 😀",
]
TEXT = st.text(st.characters(blacklist_categories=["Cs"]))


def every_tokenizer():
    return {
        "bytes": ByteTokenizer([END]),
        "characters": CharacterTokenizer.fitted(CORPUS, [UNKNOWN, END]),
        "bpe": train_bpe(CORPUS, 300, [PAD, END]),
        "words": train_words(CORPUS, 50, [PAD, MASK]),
    }


TOKENIZERS = every_tokenizer()


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe"])
def test_decode_gives_back_what_was_encoded(name):
    tokenizer = TOKENIZERS[name]
    for text, ids in zip(CORPUS, tokenizer.encode(CORPUS), strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == text


@given(TEXT)
def test_bytes_and_bpe_write_any_text(text):
    for name in ("bytes", "bpe"):
        tokenizer = TOKENIZERS[name]
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text
        assert ids.size == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocabulary)


@given(TEXT)
def test_an_unknown_character_becomes_the_unknown_token(text):
    tokenizer = TOKENIZERS["characters"]
    (ids,) = tokenizer.encode([text])
    assert len(ids) == len(text)
    known = set(tokenizer.characters)
    assert tokenizer.decode(ids) == "".join(c if c in known else "\ufffd" for c in text)


def test_characters_without_unknown_name_the_strangers():
    tokenizer = CharacterTokenizer.fitted(["abc"])
    with pytest.raises(DataError, match=r"2 characters .*'x'.*unknown: true"):
        tokenizer.encode(["abcxx"])


def test_specials_come_before_the_sorted_characters():
    tokenizer = CharacterTokenizer.fitted(["cab", "b"], [UNKNOWN, END])
    assert tokenizer.encode(["abc"])[0].tolist() == [2, 3, 4]
    assert tokenizer.specials == {UNKNOWN: 0, END: 1}
    assert tokenizer.vocabulary == 5


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_words_never_fall_and_change_between_two_words(name):
    tokenizer = TOKENIZERS[name]
    text = "To be, or not"
    (ids,), (words,) = tokenizer.encode([text]), tokenizer.words([text])
    assert len(ids) == len(words)
    assert words[0] == 0
    assert set(np.diff(words)) <= {0, 1}
    assert words[-1] >= 3
    if name == "characters":
        assert words.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 6]


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_a_tokenizer_survives_json(name):
    tokenizer = TOKENIZERS[name]
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.vocabulary == tokenizer.vocabulary
    assert again.specials == tokenizer.specials
    for a, b in zip(again.encode(CORPUS), tokenizer.encode(CORPUS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bpe_is_the_same_each_time_and_shorter_than_bytes():
    once, twice = train_bpe(CORPUS * 5, 320), train_bpe(CORPUS * 5, 320)
    assert once.to_json() == twice.to_json()
    assert len(once.encode(CORPUS[:1])[0]) < len(CORPUS[0])


def test_words_split_and_keep_corpus_unknowns():
    tokenizer = train_words(["the <unk> cat , the cat\n"], 10)
    ids = tokenizer.encode(["the <unk> dog\n"])[0]
    unknown = tokenizer.specials[UNKNOWN]
    assert len(ids) == 4
    assert ids[1] == ids[2] == unknown
    assert ids[0] != unknown


def test_smiles_are_split_into_atoms_bonds_and_rings():
    molecules = ["Clc1cc[nH]cc1Br", "[Na+].[O-]C(=O)C%12CC%12", "C/C=C\\C#N"]
    tokenizer = train_smiles(molecules, [PAD, UNKNOWN])
    encoded = tokenizer.encode(molecules)
    assert [tokenizer.decode(ids) for ids in encoded] == molecules
    assert [tokenizer.decode([token]) for token in encoded[0]] == [
        *("Cl", "c", "1", "c", "c", "[nH]", "c", "c", "1", "Br")
    ]
    assert [tokenizer.decode([token]) for token in encoded[1]][:3] == ["[Na+]", ".", "[O-]"]
    assert len(encoded[1]) == 13
    (strange,) = tokenizer.encode(["C[Si]C"])
    assert strange.tolist() == [encoded[2][0], tokenizer.specials[UNKNOWN], encoded[2][0]]


def test_a_foreign_file_has_its_special_tokens_found():
    from tokenizers import Tokenizer, models, pre_tokenizers

    library = Tokenizer(
        models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}, "[UNK]")
    )
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = LibraryTokenizer(library.to_str())
    assert tokenizer.specials == {PAD: 0, UNKNOWN: 1, "<cls>": 2, "<sep>": 3, MASK: 4, END: 3}
    assert tokenizer.encode(["a b"])[0].tolist() == [5, 1]


def test_padding_and_truncation_of_a_foreign_file_are_switched_off():
    from tokenizers import Tokenizer, models, pre_tokenizers

    library = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, "[PAD]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.enable_padding(length=8)
    library.enable_truncation(2)
    assert LibraryTokenizer(library.to_str()).encode(["a a a"])[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "broken",
    ["", "[]", "{}", '{"kind": "pickle"}', '{"kind": "library", "definition": {}}', '{"kind": "bytes"}'],
)
def test_what_is_no_tokenizer_is_refused(broken):
    with pytest.raises(DataError, match="this is not a"):
        tokenizer_from_json(broken)


@pytest.mark.parametrize(
    "fit",
    [lambda: CharacterTokenizer.fitted([""]), lambda: train_bpe([""], 300), lambda: train_words([], 10)],
)
def test_an_empty_corpus_is_a_sentence(fit):
    with pytest.raises(DataError, match="training text is empty"):
        fit()


def test_a_bpe_vocabulary_must_hold_all_bytes():
    with pytest.raises(DataError, match="at least 257"):
        train_bpe(["text"], 100, [END])


def test_json_holds_no_object_but_json():
    assert json.loads(TOKENIZERS["bpe"].to_json())["kind"] == "library"


@pytest.mark.parametrize("first", [None, CLASSIFY])
def test_the_files_of_a_tokenizer_make_the_same_tokens_elsewhere(first, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = train_bpe(["the cat sat on the mat", "a dog ran"], 300, (PAD, CLASSIFY, END))
    for name, text in ours.files(context=16, first=first).items():
        (tmp_path / name).write_text(text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the cat ran", f"a {theirs.pad_token} in the text", ""):
        expected = ours.encode([text])[0].tolist()
        assert theirs(text)["input_ids"] == ([ours.specials[first]] if first else []) + expected
    assert theirs.model_max_length == 16
