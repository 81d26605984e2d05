import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.spec.yaml_text import MAX_BYTES, read_yaml


def test_reads_plain_data_with_positions():
    text = read_yaml("name: a\nlist:\n  - 1\n  - {b: 1e-3}\n", "f")
    assert text.data == {"name": "a", "list": [1, {"b": 1e-3}]}
    assert text.positions[("list", 1, "b")] == (4, 6)
    assert text.positions[("name",)] == (1, 1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 1e-3),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("0x1F", 31),
        ("'3'", "3"),
        ("-.inf", -math.inf),
        ("2001-01-01", "2001-01-01"),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("", None),
    ],
)
def test_scalars_follow_yaml_1_2(written, meant):
    assert read_yaml(f"a: {written}", "f").data == {"a": meant}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "f:1:65: nested deeper than 64 levels"),
        ("{a: " * 1_000, "nested deeper than 64 levels"),
        ("a: &x 1\nb: *x", "f:1:4: anchors"),
        ("b: *x", "aliases (*x) are not allowed"),
        ("a: 1\na: 2", "f:2:1: 'a' is given twice"),
        ("!!float x", "tags"),
        ("a: !!python/object:os.system {}", "tags"),
        ("a: " + "9" * 5000, "a number this long"),
        ("a: 1\n---\nb: 1", "one document only"),
        ("a: [1", "f:1:6"),
        ("a: \x00", "not text that YAML allows"),
        ("? [1]\n: 2", "a key must be plain text"),
        ("a: " + "x" * MAX_BYTES, "too large"),
        ("a: 1\n  b: 2", "f:2"),
    ],
    ids=range(14),
)
def test_refuses_with_one_sentence(text, says):
    with pytest.raises(SpecError) as caught:
        read_yaml(text, "f")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=400)
@given(st.text(alphabet="[]{}:,-&*!|>'\"%#\n \tab01.~?\\x\x00\ufeff", max_size=60))
def test_no_text_escapes_as_another_exception(text):
    try:
        read_yaml(text, "f")
    except SpecError as error:
        assert str(error).startswith("f")
