from __future__ import annotations

from orchestrator.cli.options import AsJson, print_json, say

_SHOWN = ("ray", "torch", "deepspeed", "mlflow", "pyarrow", "kubernetes")


def version(json: AsJson = False) -> None:
    """Print the versions of trainwright and of what it stands on."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    import orchestrator

    found = {"trainwright": orchestrator.__version__, "python": platform.python_version()}
    for package in _SHOWN:
        try:
            found[package] = installed(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if json:
        print_json(found)
    else:
        for name, number in found.items():
            say(f"{name:<12} {number}")
