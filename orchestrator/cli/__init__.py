"""The command line: one verb a file; each parses, calls, prints. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys

_OF_TRAINING = frozenset(
    {
        "torch",
        "ray",
        "deepspeed",
        "mlflow",
        "sklearn",
        "scipy",
        "tokenizers",
        "safetensors",
        "pandas",
        "numpy",
        "pyarrow",
        "PIL",
    }
)
"""Modules that come with the extra ``train``."""


def main() -> None:
    """Entry of the ``trainwright`` command: errors become one sentence and an exit code."""
    from orchestrator.cli.app import UsageError, app
    from orchestrator.errors import TrainwrightError

    try:
        sys.exit(app(prog_name="trainwright", standalone_mode=False) or 0)
    except UsageError as error:
        if said := error.format_message():  # empty where the help is printed instead
            where = error.ctx.command_path if error.ctx else "trainwright"
            see = " See" if said.endswith("?") else "; see"
            sys.stderr.write(f"error: {said[0].lower()}{said[1:].rstrip('.')}{see} {where} --help\n")
        sys.exit(error.exit_code)
    except TrainwrightError as error:
        sys.stderr.write(f"error: {error}\n" if "\n" not in str(error) else f"{error}\n")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        needed = (error.name or "").partition(".")[0]
        if needed not in _OF_TRAINING:
            raise
        sys.stderr.write(
            f"error: this takes {needed}, which is not installed here; install what trains: pip install"
            " 'trainwright[train]'\n"
        )
        sys.exit(4)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
