"""What a person opens to look at a run: addresses that open from here, else the command that opens them."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.spec.addresses import service_of
from orchestrator.spec.profile import ClusterProfile


def opened(urls: Mapping[str, str], profile: ClusterProfile, run_id: str) -> dict[str, str]:
    """Links of a run, by what each shows. Pure.

    Args:
        urls: as its status has them.
        profile: of its cluster.
        run_id: its id.
    """
    links = dict(urls)
    if "mlflow" in urls and profile.mlflow_ui and profile.mlflow:
        links["mlflow"] = urls["mlflow"].replace(profile.mlflow.rstrip("/"), profile.mlflow_ui.rstrip("/"), 1)
    for name, command in (("mlflow", ui_command(profile)), ("dashboard", ui_command(profile, run_id))):
        if name in links and _is_for_pods(links[name], profile):
            links[name] = command
    return links


def ui_command(profile: ClusterProfile, run_id: str = "") -> str:
    """The command that opens MLflow, or with a run's id Ray's dashboard of it. Pure."""
    cluster = "" if profile.kind == "local" else f" --cluster {profile.name}"
    return f"trainwright ui{cluster}{f' --ray {run_id}' if run_id else ''}"


def _is_for_pods(address: str, profile: ClusterProfile) -> bool:
    return profile.kind == "kubernetes" and address.startswith("http://") and service_of(address) is not None
