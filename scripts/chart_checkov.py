#!/usr/bin/env python3
"""Run checkov over what the chart renders, in a virtual environment of its own below .tools.

    python scripts/chart_checkov.py

Every check that is passed over stands in SKIPS, or for one object in its annotations, with the reason. Exits with 1
where checkov finds anything else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / ".tools" / "checkov-venv"
CHECKOV = "checkov==3.3.30"
FILES = ("ci/default-values.yaml", "ci/everything-values.yaml", "presets/laptop.yaml", "presets/gke-gpu.yaml")

SKIPS = {
    "CKV_K8S_15": "imagePullPolicy is IfNotPresent: images are refused unless they have a version or a digest",
}
# By digest, as a release should name it.
IMAGE = {"registry": "registry.example.com", "repository": "trainwright", "digest": "sha256:" + "0" * 64}


def install() -> Path:
    """Checkov's command, installed if need be."""
    command = VENV / "bin" / "checkov"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(VENV / "bin" / "pip"), "install", "--quiet", CHECKOV], check=True)
    return command


def main() -> None:
    """Render, check, and print what was found."""
    sys.path.insert(0, str(REPO / "tests" / "chart"))
    from chartkit.helm import template, values_file

    checkov = install()
    failed = passed = 0
    for name in FILES:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder) / "manifest.yaml"
            manifest.write_text(
                template({**values_file(name), "image": IMAGE}, api_versions=("monitoring.coreos.com/v1",))
            )
            command = [str(checkov), "--file", str(manifest), "--framework", "kubernetes", "--output", "json"]
            if SKIPS:
                command += ["--skip-check", ",".join(SKIPS)]
            environment = {**os.environ, "LOG_LEVEL": "ERROR"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        try:
            report = json.loads(done.stdout)
        except ValueError:
            sys.exit(f"checkov printed no report: {(done.stderr or done.stdout)[-500:]}")
        passed += report["summary"]["passed"]
        for check in report["results"]["failed_checks"]:
            failed += 1
            print(f"{name}: {check['check_id']} {check['resource']}: {check['check_name']}")
    print(f"{passed} passed, {failed} failed, {len(SKIPS)} checks skipped with a reason")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
