from __future__ import annotations

import shutil
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterOfRun, RunId, print_json, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.recovery.diagnosis import Diagnosis, RankNow

Patience = Annotated[float, typer.Option("--timeout", help="Seconds to wait for its answer.", min=1.0)]

_NARROWEST = 36
"""Characters of a column."""


def diagnose(
    run: RunId, cluster: ClusterOfRun = None, timeout: Patience = 20.0, json: AsJson = False
) -> None:
    """Show what every worker of a living run does now: their stacks side by side, and which one the others wait for."""
    from orchestrator import sdk

    found = sdk.attach(run, cluster).diagnose(timeout_seconds=timeout)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    for line in lines_of(found, shutil.get_terminal_size((120, 40)).columns):
        say(line)


def lines_of(found: Diagnosis, width: int) -> Iterator[str]:
    """For a person, in lines of so many characters."""
    yield found.sentence
    for one in found.ranks:
        marked = "  <- waited for" if one.rank in found.waited_for else ""
        said = "waits for others" if one.waits else "works" if one.answers else "does not answer"
        inside = f", in {', '.join(one.collectives)}" if one.collectives else ""
        where = f"rank {one.rank}  {one.host}  process {one.pid}"
        yield f"{where}  {one.still_seconds:6.1f} s of {one.doing}: {said}{inside}{marked}"
    groups = alike(found.ranks)
    across = max(1, min(len(groups), width // _NARROWEST))
    for first in range(0, len(groups), across):
        yield ""
        yield from _side_by_side(groups[first : first + across], (width - across + 1) // across)


def alike(ranks: Sequence[RankNow]) -> list[tuple[str, tuple[str, ...]]]:
    """Ranks whose training threads have the same stack, and that stack; ranks in their order."""
    by_stack: dict[tuple[str, ...], list[int]] = {}
    for one in ranks:
        if one.stack:
            by_stack.setdefault(one.stack, []).append(one.rank)
    return [
        (f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}", stack)
        for stack, numbers in by_stack.items()
    ]


def _side_by_side(groups: Sequence[tuple[str, tuple[str, ...]]], width: int) -> Iterator[str]:
    columns = [[title, "-" * len(title), *stack] for title, stack in groups]
    for cells in zip_longest(*columns, fillvalue=""):
        yield " ".join(cell[-width:].ljust(width) for cell in cells).rstrip()
