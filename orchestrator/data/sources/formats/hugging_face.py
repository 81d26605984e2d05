"""Hugging Face data sets on disk: which of a folder's Arrow files are the data."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.data.files import FileFacts, exists, read_range
from orchestrator.data.listing import list_files
from orchestrator.errors import DataError

_CACHE = "cache-"
"""Beginning of the names of what ``map`` and ``filter`` left beside the data."""


def dataset_files(path: str, extensions: tuple[str, ...]) -> list[FileFacts]:
    """Arrow files of a path; in a data set's folder those that it names, in its order.

    Raises:
        DataError: several splits lie below, or a file that the data set names is missing.
    """
    files = list_files(path, extensions)
    if [facts.path for facts in files] == [path]:
        return files
    by_folder: dict[str, list[FileFacts]] = {}
    for facts in files:
        by_folder.setdefault(facts.path.rpartition("/")[0], []).append(facts)
    root = path.rstrip("/")
    for above in sorted({folder.rpartition("/")[0] for folder in by_folder if folder.startswith(f"{root}/")}):
        _refuse_splits(above)
    kept = [facts for folder, found in by_folder.items() for facts in _named(folder, found)]
    if not kept:
        raise DataError(f"{path}: holds only {files[0].path.rpartition('/')[2]}, which a data set's map left")
    return kept


def _refuse_splits(folder: str) -> None:
    """A training set and its test set are not one data set."""
    about = _json(f"{folder}/dataset_dict.json")
    splits = about.get("splits") if about else None
    if isinstance(splits, list) and splits:
        names = ", ".join(map(str, splits))
        raise DataError(f"{folder}: is a DatasetDict with the splits {names}; name one: {folder}/{splits[0]}")


def _named(folder: str, found: list[FileFacts]) -> list[FileFacts]:
    state = _json(f"{folder}/state.json")
    named = state.get("_data_files") if state else None
    if not state or not isinstance(named, list):
        return [facts for facts in found if not facts.path.rpartition("/")[2].startswith(_CACHE)]
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder}: its rows are picked by an index; save it again after flatten_indices()")
    by_name = {facts.path.rpartition("/")[2]: facts for facts in found}
    names = [str(one.get("filename")) for one in named if isinstance(one, dict)]
    for name in names:
        if name not in by_name:
            raise DataError(
                f"{folder}: its state.json names {name}, which is not there; copy the whole folder"
            )
    return [by_name[name] for name in names]


def _json(path: str) -> dict[str, Any] | None:
    """An object from a file that may not be there."""
    if not exists(path):
        return None
    try:
        content = json.loads(read_range(path))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({str(error)[:100]})") from error
    return content if isinstance(content, dict) else None
