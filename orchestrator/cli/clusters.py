from __future__ import annotations

from typing import Any

from orchestrator.cli.options import AsJson, print_json, say


def clusters(json: AsJson = False) -> None:
    """List the cluster profiles, and whether each answers."""
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.spec.load import list_profiles

    profiles = list_profiles()
    with ThreadPoolExecutor(max_workers=8) as pool:
        rows = list(pool.map(_look, profiles))
    if json:
        print_json(rows)
        return
    widths = [max(len(row[key]) for row in rows) for key in ("name", "kind", "answers")]
    for row in rows:
        cells = (row["name"].ljust(widths[0]), row["kind"].ljust(widths[1]), row["answers"].ljust(widths[2]))
        say("  ".join((*cells, row["message"])))


def _look(entry: Any) -> dict[str, str]:
    from orchestrator.clusters import open_cluster
    from orchestrator.errors import TrainwrightError

    file, profile = entry
    if isinstance(profile, TrainwrightError):
        return {
            "name": file.stem,
            "kind": "?",
            "answers": "no",
            "message": str(profile).splitlines()[0],
            "file": str(file),
        }
    try:
        message, answers = open_cluster(profile).ping(), "yes"
    except TrainwrightError as error:
        message, answers = str(error), "no"
    return {
        "name": profile.name,
        "kind": profile.kind,
        "answers": answers,
        "message": message,
        "file": str(file),
    }
