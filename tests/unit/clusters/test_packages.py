"""What pip says of a job's packages, with an index of this test's own: wheels and sources in a folder."""

import socket
import tarfile
import zipfile

import pytest

from orchestrator import sdk
from orchestrator.clusters.shared.packages import problem_with
from orchestrator.errors import SpecError


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    for name, version, needs in [
        ("left", "1.0", "base==1"),
        ("right", "1.0", "base==2"),
        ("base", "1", ""),
        ("base", "2", ""),
    ]:
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            described = f"{name}-{version}.dist-info"
            requires = f"Requires-Dist: {needs}\n" if needs else ""
            wheel.writestr(
                f"{described}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
            )
            wheel.writestr(
                f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{described}/RECORD", "")
    source = tmp_path / "setup.py"
    source.write_text(f"open({str(tmp_path / 'built')!r}, 'w')")
    with tarfile.open(folder / "source-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, "source-1.0/setup.py")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        (["left", "base>=1"], None),
        (["laft"], "pip finds no version of laft for this Python"),
        (["left==3"], "pip finds no version of left==3 for this Python"),
        (["left", "right"], "can't install left==1.0 and right==1.0 together"),
        (["what is this"], "'what is this' names no package"),
    ],
)
def test_what_pip_can_not_install_is_said(packages, said):
    problem = problem_with(packages)
    assert problem == said if said is None else problem.startswith("environment.pip: ") and said in problem


def test_no_code_of_a_package_runs_for_the_question(tmp_path):
    assert problem_with(["source"]) is None
    assert "source==2" in problem_with(["source==2"])
    assert (
        problem_with([str(tmp_path / "nowhere"), "git+https://example.invalid/a.git", "-r other.txt"]) is None
    )
    assert not (tmp_path / "built").exists()


def test_an_index_that_does_not_answer_refuses_nothing(monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}/simple")
        assert problem_with(["laft"]) is None


def test_a_plan_for_this_machine_refuses_and_one_for_another_warns(tmp_path, monkeypatch):
    from orchestrator.cli.plan import warnings
    from orchestrator.spec.profile import ClusterProfile

    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    job = {
        "name": "job",
        "model": {"family": "mlp", "size": "debug"},
        "data": {"train": {"kind": "builtin", "name": "breast_cancer"}},
        "training": {"max_steps": 2, "global_batch_size": 4},
        "environment": {"pip": ["laft"]},
    }
    (tmp_path / "job.yaml").write_text(str(job))
    with pytest.raises(SpecError, match="no version of laft"):
        sdk.make_plan(tmp_path / "job.yaml")
    elsewhere = ClusterProfile(
        name="far", kind="ray", address="http://127.0.0.1:1", storage=str(tmp_path / "far")
    )
    [warning] = warnings(sdk.make_plan(tmp_path / "job.yaml", elsewhere), elsewhere)
    assert warning.startswith("warning, as seen from here: environment.pip: pip finds no version of laft")
