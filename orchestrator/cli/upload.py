from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterName, print_json, say

_SECONDS_BETWEEN_LINES = 5.0


def upload(
    source: Annotated[str, typer.Argument(help="The folder, or one file.", metavar="FOLDER")],
    cluster: ClusterName = "local",
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Where: a path below data/ in the cluster's storage, or a whole one. Default: the folder's name.",
            metavar="PATH",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of what has that name, once all is there.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Put data of yours where the jobs of a cluster read it: on its storage claim, in its bucket, or in its shared folder. Cut
    off, the same command goes on; before all is there, there is nothing under the name.
    """
    from orchestrator import sdk
    from orchestrator.section import format_bytes

    made = sdk.upload(source, cluster, to=to, replace=replace, on_sent=_shown())
    if json:
        print_json(made.model_dump(mode="json"))
        return
    had = made.bytes - made.sent_bytes
    kept = f" ({format_bytes(had)} were there already)" if had else ""
    say(
        f"{made.files} file{'s' if made.files > 1 else ''}, {format_bytes(made.bytes)}{kept}; a job reads them as"
    )
    say(f"  data.train.path: {made.path}")


def _shown() -> Callable[[int, int], None]:
    """Says now and then on standard error how far it is."""
    from orchestrator.section import format_bytes

    began = shown_at = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= _SECONDS_BETWEEN_LINES:
            shown_at = now
            sys.stderr.write(
                f"{format_bytes(done)} of {format_bytes(total)}, {100 * done // max(1, total)}%, after {now - began:.0f}s\n"
            )
            sys.stderr.flush()

    return show
