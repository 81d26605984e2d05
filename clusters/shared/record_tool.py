"""Reads and writes a run's records where the storage is: ``python -m orchestrator.clusters.shared.record_tool``.

Runs on the cluster for a client that does not reach the storage. Arguments: ``read STORAGE NAME OFFSET``,
``names STORAGE FOLDER``, ``write STORAGE NAME BASE64`` or ``create STORAGE NAME BASE64``. Prints one marked line of
JSON.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from orchestrator.clusters.shared.run_records import ANSWER_MARK, StorageRecord


def answer(arguments: list[str]) -> Any:
    """The JSON value that answers one command line."""
    action, storage, name, *more = arguments
    record = StorageRecord(storage)
    match action:
        case "read":
            return base64.b64encode(record.read_from(name, int(more[0]))).decode()
        case "names":
            return record.names(name)
        case "write":
            record.write(name, base64.b64decode(more[0]))
            return True
        case "create":
            return record.create(name, base64.b64decode(more[0]))
    raise SystemExit(f"record_tool: unknown action {action!r}")


if __name__ == "__main__":
    print(ANSWER_MARK + json.dumps(answer(sys.argv[1:])), flush=True)
