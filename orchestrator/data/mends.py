"""What makes numbers of columns that are none, in the words of a job file."""

from __future__ import annotations

import pyarrow as pa

FILL_OR_DROP = "under data.transforms {kind: impute} fills it in and {kind: drop} leaves such rows out"
"""What mends a value that is missing."""
DROP_LABEL = "{kind: drop, tensor: label} under data.transforms leaves such rows out"
"""What mends a label that is missing: one that is filled in would be an invented answer."""


def mend_of(name: str, kind: pa.DataType, tensor: str) -> str:
    """Why a column is no number, and what makes one of it."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return (
            f"words; take them as categories: [{name}] with {{kind: encode, tensor: categories}} under data.transforms,"
            " or, where they are numbers, give the source its decimal and thousands"
        )
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return (
            f"dates; take them as dates: [{name}] with {{kind: date, tensor: dates}} and {{kind: join, tensor: {tensor},"
            " append: [dates]} under data.transforms"
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return f"bytes; where they are images, image: {name}"
    if pa.types.is_struct(kind):
        inner = kind.field(0).name if kind.num_fields else "..."
        return f"a struct; name the field that is meant, e.g. {name}.{inner}"
    if pa.types.is_null(kind):
        return "no values in the first rows"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"lists; where all are of one length, name it: {tensor}: [{name}]"
    return f"{kind}, which no transform turns into numbers; write it as numbers"
