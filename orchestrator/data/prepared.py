"""Prepared: everything about the data that workers need, as JSON. Made once a run, by the driver."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.order import OrderShape
from orchestrator.data.sources.index import SourceIndex, relative_name
from orchestrator.data.sources.split import Part
from orchestrator.section import Section


class PreparedSource(Section):
    """One source, or the part of it that is used."""

    index: SourceIndex
    """Files and groups."""
    part: Part
    """Which rows."""
    layouts: tuple[TensorLayout, ...]
    """The tensors its rows make."""
    first_id: int
    """``sample_id`` of its first row: ids count the rows of all training sources, one after the other."""
    samples: int
    """Rows of the part."""
    skips_bad_samples: bool = False
    """Whether a row that can't be read gets weight zero instead of being an error."""
    order: OrderShape | None = None
    """How training goes through it; ``order.batch`` is its share of every global batch. None for evaluation."""


class Prepared(Section):
    """The data of a run."""

    train: tuple[PreparedSource, ...]
    """Training sources; more than one is a mix."""
    evaluation: PreparedSource | None = None
    """What is evaluated on."""
    fitted: tuple[dict[str, Any], ...] = ()
    """What each transform learned from the training samples."""
    train_samples: int
    """Training samples of all sources."""
    eval_samples: int
    """Evaluation samples."""
    steps_per_epoch: int
    """Global batches of one pass over the training samples."""
    sample_bytes: int
    """Bytes of one sample's tensors, as the loop gets them."""
    carried_bytes: int
    """Bytes of one sample as it is carried to the loop's process."""
    identity: dict[str, Any]
    """What the data set is: for the checkpoint, and to say what changed (``describe_change``)."""
    dims: dict[str, int] = {}
    """Sizes that a model takes from the data."""
    lists: dict[str, tuple[int, ...]] = {}
    """Sizes of which there are several."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    """Of each tensor: ``float`` or ``int``, and the shape of a sample's."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the data has them."""
    preparation: dict[str, Any] = {}
    """What ``data.prepare`` learned, e.g. a tokenizer. Empty without."""
    notes: tuple[str, ...] = ()
    """What was found of the data that the job does not say, in sentences for the plan's notes."""
    example: tuple[dict[str, Any], ...] = ()
    """A few training rows as the source has them, for whoever looks at the model; none where they are large."""
    lineage: dict[str, Any] = {}
    """For the tracker: ``train`` and ``eval``, each with name, source and rows."""


def identity_of(train: tuple[PreparedSource, ...]) -> dict[str, Any]:
    """The identity of the training data: short, JSON-able, complete enough to say what changed."""
    sources = []
    for source in train:
        index = source.index
        sources.append(
            {
                "root": index.root,
                "kind": index.kind,
                "rows": index.rows,
                "files": len(index.files),
                "bytes": sum(file.bytes for file in index.files),
                "columns": {field.name: str(field.type) for field in index.schema},
                "first_files": _first_files(index),
                "part": source.part.key,
                "order": None if source.order is None else list(vars(source.order).values()),
                "fingerprint": index.identity,
            }
        )
    fingerprint = hashlib.sha256(
        json.dumps([[s[k] for k in _COMPARED] for s in sources]).encode()
    ).hexdigest()
    return {"fingerprint": fingerprint, "sources": sources}


_COMPARED = ("fingerprint", "part", "order")


def _first_files(index: SourceIndex) -> dict[str, list[Any]]:
    """Bytes, rows (where a file is some) and hash of the first files; further ones are in the fingerprint only."""
    rows = {relative_name(file.path, index.root): sum(file.rows) for file in index.files}
    return {name: [size, rows.get(name), digest] for name, (size, digest) in index.content_of_files.items()}


def describe_change(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What changed between two identities, as the second half of a sentence; None where nothing did."""
    if old.get("fingerprint") == new.get("fingerprint"):
        return None
    before, after = old.get("sources", []), new.get("sources", [])
    if len(before) != len(after):
        return f"there were {len(before)} training sources, now there are {len(after)}"
    for then, now in zip(before, after, strict=True):
        if change := _source_change(then, now):
            return f"{now['root']}: {change}"
    return "the training data has another fingerprint"


def _source_change(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    if all(then[key] == now[key] for key in _COMPARED):
        return None
    for name, kind in then["columns"].items():
        if name not in now["columns"]:
            return f"column {name!r} is gone"
        if now["columns"][name] != kind:
            return f"column {name!r} was {kind}, now it is {now['columns'][name]}"
    added = [name for name in now["columns"] if name not in then["columns"]]
    if added:
        return f"column {added[0]!r} is new"
    if then["kind"] != now["kind"]:
        return f"it was {then['kind']}, now it is {now['kind']}"
    for name, brief in then["first_files"].items():
        if name not in now["first_files"]:
            return f"file {name} is gone (rows were {then['rows']}, now {now['rows']})"
        if now["first_files"][name] != list(brief):
            return _file_change(name, brief, now["first_files"][name])
    new_files = [name for name in now["first_files"] if name not in then["first_files"]]
    if new_files:
        return f"file {new_files[0]} is new (rows were {then['rows']}, now {now['rows']})"
    if then["part"] != now["part"]:
        return "other rows are held out (data.eval or training.seed changed)"
    if then["order"] != now["order"]:
        return "the order of samples changed (training.global_batch_size, data.shuffle or data.tail changed)"
    return "a file has other contents"


def _file_change(name: str, then: Sequence[Any], now: Sequence[Any]) -> str:
    if then[:2] == now[:2]:
        return f"file {name} has other values"
    if then[1] is None:
        return f"file {name} had {then[0]} bytes, now it has {now[0]}"
    return f"file {name} had {then[1]} rows and {then[0]} bytes, now it has {now[1]} and {now[0]}"
