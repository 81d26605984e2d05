"""Uses a run's store where it is: ``python -m orchestrator.clusters.shared.record_tool``.

Runs on the cluster for a client that does not reach the storage. Arguments: ``read ROOT PATH OFFSET BYTES``,
``write ROOT PATH BASE64``, ``create ROOT PATH BASE64``, ``status ROOT PATH LAUNCH``, or ``size``, ``list``, ``files``,
``remove`` and ``statuses`` with ``ROOT PATH``. Prints one marked line of JSON.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from orchestrator.clusters.shared.recorded_runs import told_status, told_statuses
from orchestrator.clusters.shared.stores import ANSWER_MARK, ExplainedStore


def answer(arguments: list[str]) -> Any:
    """The JSON value that answers one command line; of ``read`` null where there is no such file."""
    action, root, path, *more = arguments
    store = ExplainedStore(root)
    match action:
        case "read":
            try:
                return base64.b64encode(store.read(path, int(more[0]), int(more[1]))).decode()
            except FileNotFoundError:
                return None
        case "write":
            return store.write(path, base64.b64decode(more[0]))
        case "create":
            return store.create(path, base64.b64decode(more[0]))
        case "size":
            return store.size(path)
        case "list":
            return store.list(path)
        case "files":
            return store.files(path)
        case "remove":
            return store.remove(path)
        case "status":
            return told_status(f"{root}/{path}", int(more[0]) if more[0] else None)
        case "statuses":
            return told_statuses(root)
    raise SystemExit(f"record_tool: unknown action {action!r}")


if __name__ == "__main__":
    print(ANSWER_MARK + json.dumps(answer(sys.argv[1:])), flush=True)
