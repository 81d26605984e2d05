"""Which kind of source files are, by their names: for data that no job describes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from orchestrator.data.listing import list_files, natural
from orchestrator.data.sources.formats.audio import EXTENSIONS as SOUNDS
from orchestrator.data.sources.formats.audio import MANIFESTS
from orchestrator.data.sources.formats.images import EXTENSIONS as IMAGES
from orchestrator.errors import DataError, SpecError
from orchestrator.spec.data import CsvSource, FileSource, Source, TextSource

_ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".npy": "numpy",
    ".tar": "webdataset",
    ".txt": "text",
    ".md": "text",
    ".text": "text",
    ".log": "text",
    ".rst": "text",
    **dict.fromkeys(IMAGES, "images"),
    **dict.fromkeys(SOUNDS, "audio"),
}
"""Ending of a file -> kind of source."""


def kind_of_files(path: str) -> tuple[str, str]:
    """The kind of source, and how it was recognized."""
    files = list_files(path, (), bookkeeping=False)
    kinds = Counter(
        kind
        for one in files
        if (kind := _ENDINGS.get(os.path.splitext(one.path.lower())[1]))  # noqa: PTH122
    )
    kinds = (
        kinds
        if set(kinds) <= {"jsonl"}
        else Counter({k: n for k, n in kinds.items() if k != "jsonl" or n > 2})
    )
    if not kinds:
        names = ", ".join(sorted({one.path.rsplit("/", 1)[-1] for one in files})[:3])
        raise DataError(
            f"{path}: nothing in it ends as data does that is known ({names}); known are"
            f" {', '.join(sorted(_ENDINGS))}; name files so, or write data.train yourself (trainwright explain data.train)"
        )
    kind, count = kinds.most_common(1)[0]
    return kind, f"{count:,} file{'s' if count != 1 else ''} of the kind {kind}, by the ending of their names"


def source_at(path: str, like: Source) -> Source:
    """The source of the files at an absolute path or pattern, written as those of ``like`` where both are of one kind.

    Raises:
        DataError: there are none, or none of a kind that is known.
    """
    kind, _ = kind_of_files(path)
    if like.kind == kind or (like.kind == "audio" and path.lower().endswith(tuple(MANIFESTS))):
        return like.model_copy(update={"path": path})
    if kind == "csv":
        return CsvSource(path=path)
    if kind == "text":
        return TextSource(path=path)
    return FileSource.model_validate({"kind": kind, "path": path})


def one_path(paths: Sequence[str]) -> str:
    """The path or pattern that means exactly these: of several files, which a shell has made of a pattern, the pattern again.

    Raises:
        SpecError: there is no such pattern.
    """
    if len(paths) == 1:
        return paths[0]
    start = os.path.commonprefix(list(paths))  # noqa: RUF071 - by letters
    end = os.path.commonprefix([path[len(start) :][::-1] for path in paths])[::-1]  # noqa: RUF071
    pattern = f"{start}*{end}"
    found = [one.path for one in list_files(pattern, ())]
    if found != sorted(paths, key=natural):
        raise SpecError(
            f"no pattern with one * means exactly the {len(paths)} files that begin with {paths[0]}; give a folder, or a"
            " pattern in quotes, so that the shell leaves it as it is"
        )
    return pattern
