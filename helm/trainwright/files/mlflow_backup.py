"""Back up the SQLite databases of the MLflow server while it runs, and keep the newest few copies.

mlflow_backup.py FOLDER_OF_DATABASES FOLDER_OF_BACKUPS KEEP
"""

import datetime
import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def back_up(database: Path, folder: Path, stamp: str) -> Path:
    """One consistent copy, checked before it gets its final name."""
    target = folder / f"{database.stem}-{stamp}.db"
    partial = target.with_suffix(".partial")
    source = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    with closing(source), closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
        (state,) = copy.execute("PRAGMA integrity_check").fetchone()
    if state != "ok":
        sys.exit(f"the copy of {database} is damaged: {state}")
    return partial.replace(target)


def drop_old(folder: Path, stem: str, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` copies; the stamp in the name sorts by time."""
    old = sorted(folder.glob(f"{stem}-*.db"))[:-keep]
    for path in old:
        path.unlink()
    return old


def main() -> None:
    """Copy every database, then drop the oldest copies."""
    source, folder, keep = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    databases = sorted(source.glob("*.db"))
    if not databases:
        sys.exit(f"no database in {source}")
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    for database in databases:
        target = back_up(database, folder, stamp)
        dropped = drop_old(folder, database.stem, keep)
        print(f"{target}: {target.stat().st_size} bytes, {len(dropped)} old copies dropped")


if __name__ == "__main__":
    main()
