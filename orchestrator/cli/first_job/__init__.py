"""First jobs, as commented text: of a family on bundled data, or of somebody's own files, by looking at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.cli.first_job.draft import Draft


def draft_for_data(path: str, label: str | None, base_dir: str, cache: str) -> Draft:
    """A job for files as they are.

    Args:
        path: a file, a folder or a pattern; relative to ``base_dir``.
        label: the column to predict. Default: one is guessed.
        base_dir: the folder that the job will lie in.
        cache: where what takes long to find is kept.

    Raises:
        DataError: nothing there can be trained on; the message says what would mend it.
        SpecError: there is no such column.
    """
    from orchestrator.cli.first_job.columns import look_at
    from orchestrator.cli.first_job.pictures import folder_draft, picture_draft
    from orchestrator.cli.first_job.series import series_draft
    from orchestrator.cli.first_job.sounds import listed_sound_draft, sound_column_draft, sound_draft
    from orchestrator.cli.first_job.source import find_source
    from orchestrator.cli.first_job.table import table_draft
    from orchestrator.cli.first_job.texts import labeled_text_draft, text_draft

    found = find_source(path, base_dir, cache)
    if found.index.kind == "images" and found.index.classes:
        return folder_draft(found)
    if found.index.kind == "audio" and found.index.classes:
        return sound_draft(found)
    if found.index.kind == "text":
        return text_draft(found, "text")
    columns = look_at(found.sample)
    if found.index.kind == "audio":
        return listed_sound_draft(found, columns, label)
    for drafts in (sound_column_draft, picture_draft, series_draft, labeled_text_draft, table_draft):
        draft = drafts(found, columns, label)
        if draft is not None:
            return draft
    raise AssertionError("a table is always drafted or refused")
