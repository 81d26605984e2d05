"""What a run has left: the samples that its workers took, its events, its points in MLflow, its processes and files."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from orchestrator import events
from orchestrator.chaos.findings import Point
from orchestrator.chaos.places import Places
from orchestrator.clusters.local.processes import processes_of

_LEAVING_SECONDS = 60.0
"""Processes end a moment after the file that says so."""


def taken_by_all(storage: str) -> dict[tuple[int, int], dict[int, list[int]]]:
    """By attempt and rank, the samples of each step that it took."""
    found = {}
    for key, path in Places(storage).all_taken().items():
        lines = path.read_text().splitlines()
        found[key] = {step: samples for step, samples in map(_whole, lines) if step}
    return found


def _whole(line: str) -> tuple[int, list[int]]:
    """Step and samples of a line; nothing of one that was cut off by a kill."""
    try:
        step, samples = json.loads(line)
    except ValueError:
        return 0, []
    return step, samples


def told_by(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events of a run's output, sorted by their times."""
    told = (event for line in lines if (event := events.parse(line)))
    return sorted(told, key=lambda event: event["time"])


def points_in(database: Path, run_id: str) -> Counter[Point]:
    """Every point that MLflow's database has of a run, as often as it has it."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        rows = store.execute(
            "select m.key, m.step, m.value, m.is_nan from metrics m join tags t on t.run_uuid = m.run_uuid"
            " where t.key = 'trainwright.run_id' and t.value = ?",
            (run_id,),
        ).fetchall()
    return Counter((name, step, float("nan") if is_nan else value) for name, step, value, is_nan in rows)


def left_behind(storage: str) -> tuple[str, ...]:
    """Processes of an ended run and folders of its Ray; waits a while for them to go."""
    folders = [_ray_dir(path) for path in Path(storage).glob("launches/*/process.json")]
    deadline = time.monotonic() + _LEAVING_SECONDS
    while True:
        found = [
            f"process {pid} ({command})"
            for folder in folders
            for pid, command in processes_of(folder).items()
        ]
        found += [folder for folder in folders if Path(folder).exists()]
        if not found or time.monotonic() > deadline:
            return tuple(found)
        time.sleep(0.1)


def drafts_in(storage: str) -> tuple[str, ...]:
    """Hidden files of an ended run that a process was writing as it was killed: nothing reads them."""
    return tuple(sorted(str(path) for path in Path(storage).rglob(".*.tmp")))


def _ray_dir(path: Path) -> str:
    known: Mapping[str, str] = json.loads(path.read_text())
    return known["ray_dir"]
