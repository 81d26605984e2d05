import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.preparations.sequences import Documents, pack, pad_rows, smallest_token_type
from orchestrator.errors import DataError

DOCUMENTS = st.lists(st.lists(st.integers(0, 99), max_size=9).map(np.array), max_size=12)


def packed(documents, batch_sizes, **options):
    """Pack with the documents handed over in batches of the given sizes."""
    batches, start = [], 0
    for size in [*batch_sizes, len(documents)]:
        batches.append(documents[start : start + size])
        start += size
    sequences = list(pack([Documents(batch) for batch in batches], **options))
    length = options["length"]
    empty = np.empty((0, length), dtype=np.int32)
    tokens = np.concatenate([empty, *(b.tokens for b in sequences)])
    return tokens, np.concatenate([empty, *(b.document for b in sequences)])


@given(DOCUMENTS, st.lists(st.integers(0, 4), max_size=5), st.integers(1, 7), st.data())
def test_sequences_are_the_stream_cut_by_hand(documents, batch_sizes, length, data):
    stride = data.draw(st.integers(1, length))
    separator = data.draw(st.sampled_from([None, 100]))
    tokens, _ = packed(documents, batch_sizes, length=length, stride=stride, separator=separator)
    stream = []
    for ids in documents:
        stream += ids.tolist() + ([] if separator is None else [separator])
    expected = [stream[s : s + length] for s in range(0, len(stream) - length + 1, stride)]
    assert tokens.tolist() == expected
    assert tokens.dtype == np.int32


@given(DOCUMENTS, st.integers(2, 7))
def test_document_numbers_change_exactly_after_a_separator(documents, length):
    tokens, document = packed(documents, [], length=length, stride=length, separator=100)
    for row, numbers in zip(tokens, document, strict=True):
        expected = np.concatenate([[0], np.cumsum(row[:-1] == 100)])
        np.testing.assert_array_equal(numbers, expected)


def test_each_token_is_a_target_exactly_once_with_the_causal_stride():
    context = 4
    stream = np.arange(41)
    tokens, _ = packed([stream], [], length=context + 1, stride=context, separator=None)
    assert tokens[:, 1:].ravel().tolist() == list(range(1, 41))


def test_document_numbers_skip_empty_documents():
    _, document = packed([np.array([1]), np.array([]), np.array([2])], [], length=2, stride=2, separator=None)
    assert document.tolist() == [[0, 1]]


def test_words_are_counted_in_each_sequence_and_a_separator_is_its_own():
    batch = Documents([np.array([1, 2, 3]), np.array([4, 5])], [np.array([0, 0, 1]), np.array([0, 0])])
    (sequences,) = pack([batch], length=7, stride=7, separator=9)
    assert sequences.tokens.tolist() == [[1, 2, 3, 9, 4, 5, 9]]
    assert sequences.word.tolist() == [[0, 0, 1, 2, 3, 3, 4]]
    (sequences,) = pack([batch], length=5, stride=5, separator=None)
    assert sequences.word.tolist() == [[0, 0, 1, 2, 2]]


@pytest.mark.parametrize("stride", [0, 4])
def test_a_stride_that_would_skip_tokens_is_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        list(pack([], length=3, stride=stride, separator=None))


@given(DOCUMENTS, st.sampled_from([None, 101]), st.sampled_from([None, 102]))
def test_padded_rows_hold_each_document_between_its_edges(documents, begin, end):
    tokens, lengths = pad_rows(documents, length=12, pad=100, begin=begin, end=end)
    for ids, row, length in zip(documents, tokens, lengths, strict=True):
        expected = [*([] if begin is None else [begin]), *ids, *([] if end is None else [end])]
        assert row[:length].tolist() == expected
        assert (row[length:] == 100).all()


def test_a_longer_document_is_cut_only_when_asked():
    documents = [np.arange(5), np.arange(2)]
    with pytest.raises(DataError, match=r"1 of 2 texts have more than 3 tokens \(the longest 5\).*long: cut"):
        pad_rows(documents, length=4, pad=9, end=8)
    tokens, lengths = pad_rows(documents, length=4, pad=9, end=8, long="cut")
    assert tokens.tolist() == [[0, 1, 2, 8], [0, 1, 8, 9]]
    assert lengths.tolist() == [4, 3]


@pytest.mark.parametrize(
    ("vocabulary", "kind"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_packed_files_store_the_narrowest_type(vocabulary, kind):
    assert smallest_token_type(vocabulary) == np.dtype(kind)
