"""A person's own Ray Data pipeline: run once, put in the order of its ids, and kept as Parquet."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.cache import remembered_table
from orchestrator.errors import DataError, UserCodeError
from orchestrator.spec.data import PipelineSource

_GROUP_BYTES = 2**22
_VERSION = 1
"""Of what is kept; raise it when ``_write`` writes something else."""


def materialize_pipeline(section: PipelineSource, cache: str) -> str:
    """The Parquet file of what the pipeline makes.

    It is made anew when the module's text, the arguments or ``version`` change.

    Raises:
        UserCodeError: the function isn't there, fails, or returns something else.
        DataError: the id column is missing, or has a value twice.
    """
    module_name, name = section.function.split(":")
    try:
        module = import_module(module_name)
        function = getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise UserCodeError(
            f"data: pipeline {section.function} can't be imported ({error}); is its folder environment.working_dir?"
        ) from error
    key = [inspect.getsource(module), name, section.arguments, section.id_column, section.version]
    return remembered_table(cache, "pipeline", _VERSION, key, lambda path: _write(path, section, function))


def _write(path: str, section: PipelineSource, function: Any) -> None:
    import ray.data

    from orchestrator.data.quiet import quiet_ray_data

    quiet_ray_data()  # before the function: a data set keeps the context that it was made in
    dataset = function(**section.arguments)
    if not isinstance(dataset, ray.data.Dataset):
        raise UserCodeError(
            f"data: pipeline {section.function} returned {type(dataset).__name__}, not a ray.data.Dataset"
        )
    if section.id_column not in (dataset.columns() or []):
        raise DataError(
            f"data: pipeline {section.function} makes no column {section.id_column!r}, its id_column"
        )
    writer: pq.ParquetWriter | None = None
    last: Any = None
    try:
        for bundle in dataset.sort(section.id_column).iter_internal_ref_bundles():
            for entry in bundle.blocks:
                table: pa.Table = ray.get(entry.ref)
                if not table.num_rows:
                    continue
                last = _check_ids(table.column(section.id_column), last, section)
                writer = writer or pq.ParquetWriter(path, table.schema)
                rows = max(1, int(table.num_rows * _GROUP_BYTES / max(1, table.nbytes)))
                writer.write_table(table, row_group_size=rows)
        if writer is None:
            raise DataError(f"data: pipeline {section.function} makes no rows")
    finally:
        if writer is not None:
            writer.close()


def _check_ids(ids: pa.ChunkedArray, last: Any, section: PipelineSource) -> Any:
    """Refuse an id that comes twice: in order, it would stand beside itself."""
    values = ids.combine_chunks()
    twice = pc.equal(values.slice(1), values.slice(0, len(values) - 1))
    if pc.any(twice).as_py() or (last is not None and values[0].as_py() == last):
        raise DataError(
            f"data: pipeline {section.function} gives a value of its id_column {section.id_column!r} to two rows"
        )
    return values[-1].as_py()
