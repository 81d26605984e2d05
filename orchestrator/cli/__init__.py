"""The command line: one verb a file; each parses, calls, prints. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry of the ``trainwright`` command: errors become one sentence and an exit code."""
    from orchestrator.cli.app import app
    from orchestrator.errors import TrainwrightError

    try:
        app(prog_name="trainwright")
    except TrainwrightError as error:
        sys.stderr.write(f"error: {error}\n" if "\n" not in str(error) else f"{error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
