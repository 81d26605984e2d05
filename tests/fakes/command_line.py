"""The command line as a person uses it: a process of its own, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class CommandLine:
    """What is called in one folder.

    Args:
        folder: Where it is called.
        home: The person's trainwright home.
        environment: Further variables.
    """

    def __init__(self, folder: Path, home: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))},
            "TRAINWRIGHT_HOME": str(home),
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments]

    def call(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=timeout,
            check=False,
        )
