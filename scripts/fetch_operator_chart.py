#!/usr/bin/env python3
"""Put the KubeRay operator's chart into helm/trainwright/charts, so that no Helm repository has to be added.

    scripts/fetch_operator_chart.py                     from KubeRay's git repository, by its tag
    scripts/fetch_operator_chart.py --from FOLDER       from a clone or a mirror of it, without a network
    scripts/fetch_operator_chart.py --none              an empty chart, for kuberay-operator.enabled=false

Its files are known by the hash of their git tree; others are refused. Its license (Apache 2.0) is put beside them.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CHARTS = REPO / "helm" / "trainwright" / "charts"
NAME = "kuberay-operator"
VERSION = "1.7.0"
SOURCE = "https://github.com/ray-project/kuberay"
TREE = "2e5a42cfee75f5dfdd3ef3256a18f750c44ea838"
"""Of helm-chart/kuberay-operator at the tag v1.7.0: what git makes of the names and contents of all its files."""


def git(folder: Path, *words: str) -> bytes:
    """What git prints. Exits with what it says where it fails."""
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"git {words[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def fetched(source: str, folder: Path) -> tuple[Path, str]:
    """A repository that has the tag's commit, and the name that it has it by: a clone on this machine is used as it is."""
    if Path(source).is_dir():
        return Path(source), f"v{VERSION}"
    git(folder, "init", "--quiet", "--bare")
    git(folder, "fetch", "--quiet", "--depth", "1", source, f"refs/tags/v{VERSION}")
    return folder, "FETCH_HEAD"


def unpack(repository: Path, commit: str, target: Path) -> None:
    """The chart's files and KubeRay's license. Exits where they are not those that are meant."""
    where = f"{commit}:helm-chart/{NAME}"
    tree = git(repository, "rev-parse", where).decode().strip()
    if tree != TREE:
        sys.exit(f"{repository} has another chart at v{VERSION}: its tree is {tree}, expected {TREE}")
    with tarfile.open(fileobj=io.BytesIO(git(repository, "archive", "--format=tar", where))) as archive:
        archive.extractall(target, filter="data")
    (target / "LICENSE").write_bytes(git(repository, "show", f"{commit}:LICENSE"))


def empty(target: Path) -> None:
    """A chart of the name and version that Helm looks for, which makes nothing."""
    target.mkdir(parents=True)
    text = f"apiVersion: v2\nname: {NAME}\nversion: {VERSION}\ndescription: Nothing, for kuberay-operator.enabled=false\n"
    (target / "Chart.yaml").write_text(text, encoding="utf-8")
    # fails where somebody turns on what is not there
    (target / "templates").mkdir()
    said = f"the {NAME} chart is not here: run scripts/fetch_operator_chart.py, or set {NAME}.enabled=false"
    (target / "templates" / "absent.yaml").write_text(f'{{{{ fail "{said}" }}}}\n', encoding="utf-8")


def main() -> None:
    """Put it there; what was there before goes when the new one is whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="source", default=SOURCE, help="git repository of KubeRay")
    parser.add_argument("--none", action="store_true", help="fetch nothing: the operator is off")
    options = parser.parse_args()
    CHARTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CHARTS, prefix=".new-") as folder:
        made = Path(folder) / "chart"
        if options.none:
            empty(made)
        else:
            bare = Path(folder) / "git"
            bare.mkdir()
            unpack(*fetched(options.source, bare), made)
        for old in (CHARTS / NAME, CHARTS / f"{NAME}-{VERSION}.tgz"):
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        made.rename(CHARTS / NAME)
    print(f"{(CHARTS / NAME).relative_to(REPO)}: {'empty' if options.none else VERSION}")


if __name__ == "__main__":
    main()
