from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import AsJson, ClusterName, JobFile, Overrides, json_text, print_json, say


def chaos(
    job: JobFile,
    faults: Annotated[
        str,
        typer.Option(
            "--faults", help="Kinds of faults: kill,hang,notice,slow,disk,mlflow,resize.", metavar="KINDS"
        ),
    ] = "kill,hang,notice",
    count: Annotated[int, typer.Option("--count", help="How many faults, over all runs.")] = 6,
    per_run: Annotated[int, typer.Option("--per-run", help="Faults of one run.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same faults.")] = 1,
    only: Annotated[
        int | None, typer.Option("--only", help="This run of the schedule alone.", metavar="RUN")
    ] = None,
    set_: Overrides = None,
    cluster: ClusterName = "local",
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the report there too, as JSON.", metavar="FILE")
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the runs' folder; where something did not hold it is kept anyhow."),
    ] = False,
    json: AsJson = False,
) -> None:
    """Train the job under a seeded schedule of faults beside an undisturbed run, and report what was lost: nothing, it should be."""
    from orchestrator.chaos.schedule import kinds_of
    from orchestrator.chaos.suite import Asked, Suite

    asked = Asked(
        job=job,
        kinds=kinds_of(faults),
        count=count,
        per_run=per_run,
        seed=seed,
        only=only,
        overrides=tuple(set_ or ()),
        cluster=cluster,
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was started ends too
        signal.signal(number, lambda got, frame: sys.exit(128 + got))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    is_kept = keep
    try:
        suite = Suite(asked, folder)
        tell = (lambda line: None) if json else say
        for line in (*(f"set {change}" for change in suite.changed), *suite.said_before):
            tell(line)
        found = suite.run(tell)
        is_kept = keep or bool(found.broken)
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
    document = {**found.model_dump(mode="json"), "sums": found.sums}
    if report is not None:
        report.write_text(json_text(document))
    if json:
        print_json(document)
    else:
        for line in (*found.table, found.summary):
            say(line)
    if is_kept:
        typer.echo(f"the runs are in {folder}", err=True)
    if found.broken:
        first = found.broken[0]
        again = f"trainwright chaos {job} --faults {faults} --count {count} --per-run {per_run} --seed {seed} --only {first.run}"
        typer.echo(f"run {first.run}: {first.broken[0]}; see it again: {again}", err=True)
        sys.exit(1)
