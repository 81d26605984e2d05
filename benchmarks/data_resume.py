"""Time to the first batch and memory, where they must not depend on place or size.

    python benchmarks/data_resume.py [--folder DIR]

Resuming at 90% of an epoch against position 0, and ten times the data against the data, in processes of their own,
taking turns; the median of each is printed with its ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fakes")]
ROWS, WIDTH, BATCH, TURNS = 60_000, 1024, 64, 5


def make(folder: Path, times: int) -> Path:
    path = folder / f"rows-{times}-of-250.parquet"
    if not path.exists():
        values = np.random.default_rng(0).integers(0, 50_000, 250 * WIDTH).astype(np.int32)
        table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)})
        with pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as writer:
            for _ in range(ROWS * times // 250):
                writer.write_table(table)
    return path


def one(path: Path, share: float, steps: int) -> dict[str, float]:
    from data_jobs import job_of, plan_of

    from orchestrator import data

    # A window far smaller than the small data set, so that both hold as much.
    spec = {"train": {"kind": "parquet", "path": str(path)}, "shuffle_window_rows": 8192}
    model = {"family": "gpt", "context": WIDTH - 1, "vocabulary": 50_000}
    plan = plan_of(job_of(spec, batch=BATCH, model=model), path.parent, steps=10**6)
    prepared = data.prepare(plan)
    start = int(prepared.steps_per_epoch * share)
    began = time.perf_counter()
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=start)
    next(stream)
    first = time.perf_counter() - began
    for _ in range(steps):
        next(stream)
    stream.close()
    # Of local files, memory that is mapped counts too: what was read and not yet needed elsewhere.
    return {"first": first, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def run(path: Path, share: float, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", str(path), str(share), str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trainwright-bench")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(Path(options.one[0]), float(options.one[1]), int(options.one[2]))))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    small, large = make(options.folder, 1), make(options.folder, 10)
    firsts: dict[float, list[float]] = {0.0: [], 0.9: []}
    for _ in range(TURNS):
        for share, found in firsts.items():
            found.append(run(small, share, 0)["first"])
    at_0, at_90 = (statistics.median(found) for found in firsts.values())
    print(f"first batch: at 0 {at_0:.3f} s, at 90% {at_90:.3f} s, ratio {at_90 / at_0:.2f}")
    peaks = [run(path, 0.0, 1500)["peak_mb"] for path in (small, large)]
    print(
        f"peak memory: {peaks[0]:.0f} MB, with ten times the data {peaks[1]:.0f} MB, ratio {peaks[1] / peaks[0]:.2f}"
    )


if __name__ == "__main__":
    main()
