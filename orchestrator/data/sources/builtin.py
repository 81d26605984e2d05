"""Bundled data, written to Parquet once and from then on read like any other."""

from __future__ import annotations

import platform

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.cache import remembered_table
from orchestrator.data.sources.bundled import TABLES

_VERSION = 2
"""Of what is kept; raise it when ``_table`` makes something else."""
_GROUP_ROWS = 128


def materialize(name: str, cache: str) -> str:
    """The Parquet file of bundled data.

    scikit-learn's have ``image`` (1, 8, 8) for digits, else ``features``, and ``label``; see ``bundled`` for others.
    """

    def write(path: str) -> None:
        pq.write_table(_table(name), path, row_group_size=_GROUP_ROWS)

    # Another Python has other texts.
    key = [name, platform.python_version() if name in TABLES else ""]
    return remembered_table(cache, "builtin", _VERSION, key, write)


def _table(name: str) -> pa.Table:
    if name in TABLES:
        return TABLES[name]()
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    if name == "digits":
        values, values_name = bunch.images[:, None].astype(np.uint8), "image"
    else:
        values, values_name = bunch.data.astype(np.float32), "features"
    shape = values.shape[1:]
    flat = pa.array(values.reshape(-1))
    column = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(flat.type, shape), pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
    )
    label = pa.array(bunch.target, type=pa.float32() if name == "diabetes" else pa.int64())
    return pa.table({values_name: column, "label": label})
