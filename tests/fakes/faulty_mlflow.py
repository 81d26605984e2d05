"""A real MLflow server behind a door that can be slow, late, broken or shut.

``python faulty_mlflow.py FOLDER --slow 10`` serves one whose every answer comes ten seconds late, ``--code 500`` one that
answers nothing else, ``--gone-after 20 --gone-for 180`` one that can't be reached for three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from pathlib import Path

from orchestrator.chaos.mlflow_door import Door, mlflow_server


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slow", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--code", type=int, default=0, help="answered to all")
    parser.add_argument("--gone-after", type=float, help="seconds until it can't be reached")
    parser.add_argument("--gone-for", type=float, default=180.0, help="seconds until it can be again")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with mlflow_server(options.folder.resolve()) as server:
        door = Door(server)
        door.slow_seconds, door.code = options.slow, options.code
        print(f"{door.address} before {server}", flush=True)
        if options.gone_after is not None:
            time.sleep(options.gone_after)
            door.shut()
            print("gone", flush=True)
            time.sleep(options.gone_for)
            door.open()
            print("back", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
