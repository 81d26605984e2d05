"""The corpus: which runs there are, and a pool of processes that make them, so that aborts and hangs are seen.

    python tests/corpus/corpus.py [--seed N] [--only NAME]

prints what was found, as JSON, and ends with 1 if anything was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import IO, Any, NamedTuple

import pyarrow as pa
from mutations import (
    COLUMNS,
    FOLDERS,
    NAMES,
    ROLES,
    TABLES,
    change_bytes,
    change_lines,
    change_names,
    named,
    odd_table,
    with_column,
    write_table,
)
from seeds import SEEDS, job_data

HERE = Path(__file__).parent
SECONDS = 60
BYTES_OF_EACH, LINES_OF_EACH = 60, 60
FAULTS = ("wrong", "traceback", "hang", "abort")


class Case(NamedTuple):
    """One run."""

    name: str
    seed: str
    change: Callable[[Path], None]
    regression: bool = False


def cases(seed: int = 0) -> Iterator[Case]:
    """All runs; the same for the same seed."""
    for name, one in SEEDS.items():
        yield Case(f"{name}: as it is", name, lambda folder: None)
        for number in range(BYTES_OF_EACH):
            yield Case(f"{name}: bytes {number}", name, _content(change_bytes, f"{seed} {name} b {number}"))
        for number in range(LINES_OF_EACH if one.lines else 0):
            yield Case(f"{name}: lines {number}", name, _content(change_lines, f"{seed} {name} l {number}"))
        for how in FOLDERS:
            yield Case(f"{name}: {how}", name, lambda folder, how=how: change_names(folder, how))
    for name in ("parquet", "arrow"):
        for column in COLUMNS:
            for role in ROLES:
                table = lambda column=column, role=role: with_column(column, role)  # noqa: E731
                yield Case(f"{name}: {column} as {role}", name, _table(name, table))
        yield from (
            Case(
                f"{name}: {column} as target",
                name,
                _table(name, lambda c=column: with_column(c, "label")),
                True,
            )
            for column in COLUMNS
        )
        for which in TABLES:
            yield Case(f"{name}: {which}", name, _table(name, lambda which=which: odd_table(which)))
        for number, odd in enumerate(NAMES):
            table = lambda n=number, odd=odd: named(odd, random.Random(f"{seed} {n}"))  # noqa: E731
            yield Case(f"{name}: a column {odd[:10]!r}", name, _table(name, table))


def _content(change: Callable[[bytes, random.Random], bytes], seed: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        random_ = random.Random(seed)
        path = random_.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        path.write_bytes(change(path.read_bytes(), random_))

    return spoil


def _table(kind: str, make: Callable[[], pa.Table]) -> Callable[[Path], None]:
    return lambda folder: write_table(make(), folder / f"rows.{kind}")


def _has_output(stream: IO[str], seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:  # where the process has many files open, ``select`` can't
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(seconds))


class Worker:
    """A process of ``one_run.py``, begun anew after one that died or hung."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, run: dict[str, Any]) -> dict[str, str]:
        """Its answer; ``abort`` or ``hang`` where there is none."""
        process = self._process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(run) + "\n")
        process.stdin.flush()
        if not _has_output(process.stdout, SECONDS):
            self.end()
            return {"outcome": "hang", "why": f"no answer in {SECONDS} seconds"}
        if line := process.stdout.readline():
            answered: dict[str, str] = json.loads(line)
            return answered
        code = process.wait()
        self.end()
        return {"outcome": "abort", "why": f"ended with {code}"}

    def _begin(self) -> subprocess.Popen[str]:
        paths = [str(HERE), str(HERE.parent / "fakes"), str(HERE.parents[1])]
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "one_run.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        return self._process

    def end(self) -> None:
        """Ends it."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None


def run_all(chosen: Sequence[Case], folder: Path, *, workers: int = 2) -> dict[str, dict[str, str]]:
    """Answers by name. Cases that can't be written, since the format has no such type, have none."""
    pool: Queue[Worker] = Queue()
    for _ in range(workers):
        pool.put(Worker())

    def run(numbered: tuple[int, Case]) -> tuple[str, dict[str, str]] | None:
        number, case = numbered
        seed, place = SEEDS[case.seed], folder / str(number) / "data"
        place.mkdir(parents=True)
        seed.write(place)
        try:
            case.change(place)
        except (pa.ArrowException, OSError):
            return None
        asked = {
            "folder": str(place),
            "data": job_data(seed, place),
            "family": seed.family,
            "regression": case.regression,
        }
        worker = pool.get()
        try:
            answered = worker.ask(asked)
        finally:
            pool.put(worker)
        if answered["outcome"] not in FAULTS:
            shutil.rmtree(folder / str(number), ignore_errors=True)
        return case.name, answered

    try:
        with ThreadPoolExecutor(workers) as threads:
            return dict(one for one in threads.map(run, enumerate(chosen)) if one is not None)
    finally:
        while not pool.empty():
            pool.get().end()


def main() -> None:
    """Runs all, or those whose name begins so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    chosen = [case for case in cases(given.seed) if case.name.startswith(given.only)]
    answers = run_all(chosen, folder)
    counts = Counter(one["outcome"] for one in answers.values())
    faults = {name: one for name, one in answers.items() if one["outcome"] in FAULTS}
    print(json.dumps({"runs": len(answers), **counts, "faults": faults, "folder": str(folder)}, indent=1))
    if not faults:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
