"""Images: a folder with one folder for each class, or Parquet with their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats.listed import Listing, class_folders, list_classes
from orchestrator.data.sources.formats.parquet import index_parquet
from orchestrator.data.sources.index import Content, SourceIndex

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


class ImagesFormat:
    """Rows of ``image`` (encoded bytes) and ``label`` (the folder's number among the sorted names)."""

    extensions = (*EXTENSIONS, ".parquet")

    def __init__(self) -> None:
        self._listing = Listing("images", "image")

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Lists the folder."""
        files = list_files(path, self.extensions, bookkeeping=False)
        if all(facts.path.endswith(".parquet") for facts in files):
            return index_parquet(path)
        files = [facts for facts in files if not facts.path.endswith(".parquet")]
        classes = class_folders(files, path)
        return self._listing.index(path, list_classes(files, classes, cache, "image-list"), classes)

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """Rows of a group; the bytes of each file when ``image`` is asked for."""
        return self._listing.read(index, group, columns)

    def contents(self, index: SourceIndex) -> list[Content]:
        """The images; the folder that one lies in is data."""
        return self._listing.contents(index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first files."""
        return self._listing.head(index, rows)
