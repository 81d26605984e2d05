"""One release of the chart on the fake API server, by the real helm."""

from __future__ import annotations

from pathlib import Path

from chartkit.fake_api import FakeApi
from chartkit.helm import IMAGE, Values, helm, work_copy


class Release:
    """Runs helm for one release on a fake API server."""

    def __init__(self, api: FakeApi, kubeconfig: Path, folder: Path) -> None:
        self.api = api
        self.environment = {"KUBECONFIG": str(kubeconfig)} | {
            name: str(folder) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }

    def run(self, verb: str, *arguments: str, values: Values | None = None) -> str:
        """Helm's output. Raises HelmError."""
        chart = [str(work_copy())] if verb in ("install", "upgrade") else []
        if chart:
            values = {"image": IMAGE, **(values or {})}
        if chart:
            arguments = ("--disable-openapi-validation", *arguments)
        command = [verb, "train", *chart, *arguments, "--namespace", "training"]
        return helm(*command, values=values, environment=self.environment)
