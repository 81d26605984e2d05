"""What puts the operator's chart in its place, from a small git repository that stands for KubeRay's."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from chartkit.helm import CHART, OPERATOR_VERSION, HelmError, helm
from test_chart_tools import script


def git(folder, *words):
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def kuberay(tmp_path):
    """A repository with a chart at the tag."""
    folder = tmp_path / "kuberay"
    chart = folder / "helm-chart" / "kuberay-operator"
    (chart / "templates").mkdir(parents=True)
    (folder / "LICENSE").write_text("the license", encoding="utf-8")
    (chart / "Chart.yaml").write_text("name: kuberay-operator\n", encoding="utf-8")
    (chart / "templates" / "a.yaml").write_text("a: 1\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "all")
    git(folder, "tag", f"v{OPERATOR_VERSION}")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The script's main, with charts/ elsewhere."""
    loaded = script("scripts/fetch_operator_chart.py")
    (tmp_path / "helm").mkdir()
    monkeypatch.setattr(loaded, "REPO", tmp_path)
    monkeypatch.setattr(loaded, "CHARTS", tmp_path / "helm" / "charts")

    def run(*words, tree=None):
        if tree is not None:
            monkeypatch.setattr(loaded, "TREE", tree)
        monkeypatch.setattr(sys, "argv", ["fetch_operator_chart.py", *words])
        loaded.main()
        return loaded.CHARTS

    run.charts = loaded.CHARTS
    return run


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_the_chart_of_the_tag_comes_from_a_clone_or_by_fetching(kuberay, run, prefix):
    tree = git(kuberay, "rev-parse", "HEAD:helm-chart/kuberay-operator")
    charts = run("--from", f"{prefix}{kuberay}", tree=tree)
    names = ["Chart.yaml", "LICENSE", "templates/a.yaml"]
    assert files(charts) == [f"kuberay-operator/{name}" for name in names]


def test_other_files_are_refused_and_what_was_there_stays(kuberay, run):
    run("--none")
    before = files(run.charts)
    with pytest.raises(
        SystemExit, match=r"has another chart at v1\.7\.0: its tree is [0-9a-f]{40}, expected"
    ):
        run("--from", str(kuberay))
    assert files(run.charts) == before


def test_a_repository_that_is_not_there_is_said(run, tmp_path):
    with pytest.raises(SystemExit, match="git fetch failed"):
        run("--from", f"file://{tmp_path}/nothing")
    assert files(run.charts) == []


def test_an_old_package_goes_when_the_new_chart_is_there(run):
    run.charts.mkdir()
    (run.charts / f"kuberay-operator-{OPERATOR_VERSION}.tgz").write_bytes(b"old")
    run("--none")
    assert files(run.charts) == ["kuberay-operator/Chart.yaml", "kuberay-operator/templates/absent.yaml"]


def test_with_the_empty_chart_nothing_is_fetched_and_the_operator_can_not_be_turned_on(run, tmp_path):
    charts = run("--none")
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    shutil.copytree(charts, chart / "charts")
    words = ("template", "train", str(chart), "--set", "image.repository=t")
    assert "kind: Deployment" in helm(*words, "--set", "kuberay-operator.enabled=false")
    with pytest.raises(
        HelmError, match=r"the kuberay-operator chart is not here: run scripts/fetch_operator_chart\.py"
    ):
        helm(*words)


def test_the_script_and_the_chart_mean_the_same_version():
    loaded = script("scripts/fetch_operator_chart.py")
    assert f"version: {loaded.VERSION}\n" in (CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert loaded.VERSION == OPERATOR_VERSION
