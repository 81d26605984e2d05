from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.sources.contents import identified
from orchestrator.data.sources.formats import row_groups
from orchestrator.data.sources.formats import text as text_format
from orchestrator.data.sources.formats.text import TextFormat
from orchestrator.errors import DataError


def read_all(path, rows, cache):
    source = SimpleNamespace(kind="text", rows=rows)
    reader = TextFormat()
    index = reader.index(source, str(path), str(cache))
    texts = []
    for group in range(len(index.group_rows)):
        table = reader.read(index, group, ["text"])
        assert table.num_rows == index.group_rows[group]
        texts += table["text"].to_pylist()
    return texts, index


PIECES = st.lists(st.sampled_from(["a", "é", "bc", " ", "\n", "\n\n", "\r\n", "\n \n", "word"]), min_size=1)


@given(PIECES, st.sampled_from(["line", "paragraph", "file"]), st.integers(1, 9), st.integers(1, 7))
def test_rows_are_the_file_whatever_the_pieces_it_is_read_in(tmp_path_factory, pieces, rows, group, scan):
    folder = tmp_path_factory.mktemp("text")
    content = "".join(pieces)
    (folder / "a.txt").write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        whole, _ = read_all(folder / "a.txt", rows, folder / "cache")
        patch.setattr(row_groups, "GROUP_BYTES", group)
        patch.setattr(text_format, "_SCAN_BYTES", scan)
        in_pieces, _ = read_all(folder / "a.txt", rows, folder / "cache")
    assert "".join(whole) == content
    assert in_pieces == whole
    if rows == "line":
        assert whole == [line for line in content.split("\n") for line in [line + "\n"]][:-1] + (
            [content.split("\n")[-1]] if content.split("\n")[-1] else []
        )
    if rows == "file":
        assert whole == [content]


def test_a_paragraph_ends_after_its_empty_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n \nthree\n\nfour")
    assert read_all(tmp_path / "a.txt", "paragraph", tmp_path)[0] == ["one\ntwo\n\n \n", "three\n\n", "four"]


def test_files_of_a_folder_in_order_and_empty_ones_left_out(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, content in {"b": "two", "a": "one", "c": ""}.items():
        (folder / name).write_text(content)
    texts, index = read_all(folder, "file", tmp_path / "cache")
    assert texts == ["one", "two"]
    assert index.rows == 2


def test_the_identity_follows_the_content_and_the_rule(tmp_path):
    def identity(rows, cache):
        index = read_all(tmp_path / "a.txt", rows, tmp_path / cache)[1]
        return identified(index, str(tmp_path / cache)).identity

    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    line = identity("line", "cache")
    assert identity("line", "other") == line
    assert identity("paragraph", "cache") != line
    (tmp_path / "a.txt").write_text("one\n\ntwO\n")
    assert identity("line", "cache") != line


def test_empty_text_is_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="holds no text, its files are empty"):
        read_all(tmp_path / "a.txt", "line", tmp_path)


def test_other_encodings_are_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_bytes("fine\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="byte 8 is not UTF-8; write the file as UTF-8"):
        read_all(tmp_path / "a.txt", "line", tmp_path)
