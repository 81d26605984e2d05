"""The table of verbs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import orchestrator
from orchestrator.cli import (
    chaos,
    clusters,
    delete,
    diagnose,
    doctor,
    evaluate,
    explain,
    export,
    init,
    list_runs,
    logs,
    plan,
    predict,
    prune,
    resume,
    run,
    schema,
    status,
    stop,
    submit,
    sync,
    ui,
    upload,
    usage,
    validate,
    verify,
    version,
    why,
)
from orchestrator.cli.options import say

UsageError: Any = typer.BadParameter.__mro__[1]
"""What typer raises of a wrong verb, option or argument. It has no public name of its own."""

app = typer.Typer(
    help="Train any deep-learning family from one job file: on this machine, a Ray cluster or Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a check failed, 2 bad job file or usage, 3 the job's code or data failed, 4 infrastructure failed,"
    " 5 stopped, 6 not found.",
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        say(f"trainwright {orchestrator.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """What is asked without a verb."""


for name, verb in (
    ("init", init.init),
    ("validate", validate.validate),
    ("plan", plan.plan),
    ("run", run.run),
    ("upload", upload.upload),
    ("submit", submit.submit),
    ("list", list_runs.list_runs),
    ("status", status.status),
    ("logs", logs.logs),
    ("why", why.why),
    ("diagnose", diagnose.diagnose),
    ("stop", stop.stop),
    ("resume", resume.resume),
    ("predict", predict.predict),
    ("evaluate", evaluate.evaluate),
    ("export", export.export),
    ("verify", verify.verify),
    ("chaos", chaos.chaos),
    ("clusters", clusters.clusters),
    ("doctor", doctor.doctor),
    ("sync", sync.sync),
    ("usage", usage.usage),
    ("prune", prune.prune),
    ("delete", delete.delete),
    ("ui", ui.ui),
    ("schema", schema.schema),
    ("explain", explain.explain),
    ("version", version.version),
):
    app.command(name)(verb)
