"""How long a loop waits for data when its step takes twice as long as reading a batch does.

    python benchmarks/data_wait.py [--folder DIR] [--case tokens|images|table] [--only NAME]

For the data of ``data_readers.py`` and both of our readers: first the time a batch takes when nothing else is
done, then the share of the time that a loop waits whose step takes twice that (it sleeps, as if a GPU computed).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_readers import READERS, make

BATCHES = {"tokens": 1500, "images": 300, "table": 3000}


def one(case: str, reader: str, path: Path) -> dict[str, float]:
    if "Ray" in reader:
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=512 * 2**20,
            _temp_dir=tempfile.mkdtemp(prefix="tw", dir="/tmp"),
        )
    stream = iter(READERS[reader](case, path))
    batches = BATCHES[case]
    for _ in range(batches // 5):
        next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    step = 2 * (time.perf_counter() - began) / batches
    for _ in range(batches // 5):  # what stood ready was used up
        next(stream)
        time.sleep(step)
    waits, began = [], time.perf_counter()
    for _ in range(batches):
        asked = time.perf_counter()
        next(stream)
        waits.append(time.perf_counter() - asked)
        time.sleep(step)
    took = time.perf_counter() - began
    waits.sort()
    return {
        "step_ms": step * 1e3,
        "wait_share": sum(waits) / took,
        "median_us": waits[len(waits) // 2] * 1e6,
        "longest_share": sum(waits[-max(1, len(waits) // 100) :]) / took,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "trainwright-bench")
    parser.add_argument("--case", choices=[*BATCHES, "all"], default="all")
    parser.add_argument("--only", default="", help="readers whose name has this in it")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.one:
        case, reader = options.one
        print(json.dumps(one(case, reader, make(case, options.folder))))
        sys.stdout.flush()
        os._exit(0)  # readers have threads that know no end
    root = str(Path(__file__).resolve().parents[1])
    for case in BATCHES if options.case == "all" else [options.case]:
        make(case, options.folder)
        for reader in [name for name in READERS if name.startswith("trainwright") and options.only in name]:
            environment = {
                **os.environ,
                "PYTHONPATH": root,
                "OMP_NUM_THREADS": "1",
                "RAY_AUTH_MODE": "disabled",
            }
            command = [sys.executable, __file__, "--folder", str(options.folder), "--one", case, reader]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"{case:8} {reader:32} step {found['step_ms']:7.2f} ms, waits {found['wait_share']:.2%}"
                f" (half of the waits under {found['median_us']:.0f} us; the longest hundredth makes"
                f" {found['longest_share']:.2%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
