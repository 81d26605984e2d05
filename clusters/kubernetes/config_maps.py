"""The ConfigMaps of a namespace, of which each launch of a run has one with its plan."""

from __future__ import annotations

from typing import Any

from orchestrator.clusters.kubernetes.api import ApiServer


class ConfigMaps:
    """As objects of the API server. Every method may raise what ``ApiServer`` says."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def create(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create one, or only let the server check it."""
        more = {"dry_run": "All"} if dry_run else {}
        create = self._server.core().create_namespaced_config_map
        return self._server.call("create", "configmaps", create, self._server.namespace, body, **more)

    def get(self, name: str) -> dict[str, Any]:
        """One of them."""
        get = self._server.core().read_namespaced_config_map
        return self._server.call("get", "configmaps", get, name, self._server.namespace)

    def patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge a patch into one."""
        merge = self._server.core(merges=True).patch_namespaced_config_map
        return self._server.call("patch", "configmaps", merge, name, self._server.namespace, patch)
