"""What the data says about the model's sizes and about its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.data import preparations, transforms
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.transforms import Batch
from orchestrator.spec.job import JobSpec


def sizes(
    job: JobSpec,
    train: Sequence[PreparedSource],
    fitted: Sequence[dict[str, Any] | None],
    head: Batch,
    learned: dict[str, Any],
) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Sizes that a model takes from the data, one number each, and those of which there are several.

    Args:
        fitted: by each transform; None of one that is not fitted yet.
        head: a few samples as the loop gets them.
        learned: by ``data.prepare``.
    """
    dims: dict[str, int] = {}
    lists: dict[str, tuple[int, ...]] = {}
    if "features" in head:
        dims["features"] = head["features"].shape[1]
    elif "categories" in head:
        dims["features"] = 0
    if "image" in head and head["image"].ndim == 4:
        _, dims["channels"], height, width = head["image"].shape
        if height == width:
            dims["image_size"] = height
    if "signal" in head and head["signal"].ndim == 3:
        _, dims["channels"], dims["signal_length"] = head["signal"].shape
    if "past" in head and head["past"].ndim == 3:
        _, dims["past"], dims["series"] = head["past"].shape
    if "future" in head and head["future"].ndim == 3:
        dims["horizon"] = head["future"].shape[1]
    if "label" in head:
        label = head["label"]
        if label.dtype.kind == "f" or (job.objective is not None and job.objective.kind == "multilabel"):
            dims["outputs"] = 1 if label.ndim == 1 else label.shape[1]
        elif (classes := _classes(train)) is not None:
            dims["outputs"] = classes
    for section, known in zip(job.data.transforms, fitted, strict=True):
        if known is not None:
            _merge(transforms.kind_of(section).sizes(section, known), dims, lists)
    if job.data.prepare is not None:
        kind = preparations.kind_of(job.data.prepare)
        _merge({**kind.dims(job.data.prepare, learned), **kind.lists(job.data.prepare, learned)}, dims, lists)
    return dims, lists


def tensors(head: Batch) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind and shape of a sample's tensors."""
    return {
        name: ("float" if values.dtype.kind == "f" else "int", tuple(values.shape[1:]))
        for name, values in head.items()
        if values.dtype.kind in "fiub"
    }


def _merge(sizes: dict[str, Any], dims: dict[str, int], lists: dict[str, tuple[int, ...]]) -> None:
    for name, value in sizes.items():
        if isinstance(value, int):
            dims[name] = value
        else:
            lists[name] = tuple(value)


def _classes(train: Sequence[PreparedSource]) -> int | None:
    """Classes of a label of whole numbers, where that is known without reading all of it."""
    counts: list[int] = []
    for source in train:
        layout = next(one for one in source.layouts if one.name == "label")
        bounds = [source.index.bounds.get(name) for name in layout.columns]
        if source.index.classes:
            counts.append(len(source.index.classes))
        elif len(bounds) == 1 and bounds[0] is not None:
            counts.append(bounds[0][1] + 1)
        else:
            return None
    return max(counts)


BLANK = "<blank>"
"""Name of the class that no character is of, in front of those of ``spell``."""


def class_names(
    job: JobSpec, train: Sequence[PreparedSource], fitted: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    """Names of the classes: of the folders, or of the values that the label was encoded from."""
    for section, known in zip(job.data.transforms, fitted, strict=True):
        if section.kind == "encode" and section.tensor == "label":
            return tuple(str(value) for value in known["values"][0])
        if section.kind == "spell":
            return (BLANK, *known["characters"])
    return train[0].index.classes


def notes(indexes: Sequence[SourceIndex]) -> tuple[str, ...]:
    """What was found of how the sources are written, each sentence once."""
    return tuple(dict.fromkeys(note for index in indexes for note in index.found))
