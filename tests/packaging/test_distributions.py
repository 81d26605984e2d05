"""Built as a person would get it: the sdist and the wheel hold every module, and the wheel works beside their own models/."""

import email
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def sources() -> set[str]:
    """Every file of the package by the name it is imported under."""
    found = set()
    for folder, inside in (
        ("orchestrator", "orchestrator"),
        ("models", "orchestrator/models"),
        ("clusters", "orchestrator/clusters"),
    ):
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT / folder)
            if folder == "orchestrator" and relative.parts[0] in ("models", "clusters"):
                continue
            if (
                path.is_file()
                and path.suffix in (".py", ".yaml", ".json", ".typed")
                and "__pycache__" not in path.parts
            ):
                found.add(f"{inside}/{relative}")
    return found


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    tree = tmp_path_factory.mktemp("tree")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [name for name in names.stdout.decode().split("\0") if name and (ROOT / name).exists()]
    archive = tree / "tree.tar"
    subprocess.run(
        ["tar", "-cf", archive, "-T", "-"], input="\n".join(files), text=True, cwd=ROOT, check=True
    )
    (tree / "src").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tree / "src"], check=True)
    out = tree / "dist"
    answer = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree / "src"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_sdist_and_wheel_hold_every_module(distributions):
    sdist, wheel = distributions
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = {name for name in opened.namelist() if name.startswith("orchestrator/")}
    assert in_wheel == sources()
    with tarfile.open(sdist) as opened:
        in_sdist = {member.name.split("/", 1)[1] for member in opened.getmembers() if "/" in member.name}
    missing = sources() - in_sdist
    assert not {name for name in missing if name not in in_sdist}, missing


HEAVY = {"torch", "ray", "deepspeed", "mlflow", "mlflow-skinny", "pyarrow", "numpy", "pandas", "scipy", "scikit-learn", "pillow", "transformers", "tokenizers", "aiohttp"}  # fmt: skip


def test_the_wheel_brings_nothing_heavy_without_an_extra(distributions):
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(opened.read(name))
    left, brought = list(metadata.get_all("Requires-Dist")), {}
    while left:
        requirement = Requirement(left.pop())
        package = canonicalize_name(requirement.name)
        if package in brought or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found = importlib.metadata.version(package)
        assert requirement.specifier.contains(found), (package, found, str(requirement))
        left += importlib.metadata.requires(package) or []
        brought[package] = found
    assert {"kubernetes", "pydantic", "typer"} <= brought.keys()
    assert not HEAVY & brought.keys()


def test_the_wheel_works_beside_a_persons_own_models_folder(distributions, tmp_path):
    _, wheel = distributions
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    # the dependencies are those of this environment, found after the wheel; the editable install's finder is not
    here = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    work = tmp_path / "work"
    for name in ("models", "clusters"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text(
            "raise RuntimeError('a person\\'s own package was imported')\n"
        )
    code = (
        f"import sys; sys.path.append({here!r})\n"
        "import orchestrator, orchestrator.models, orchestrator.clusters, orchestrator.cli.app\n"
        "from orchestrator.models.configs import ClassificationConfig, CnnConfig\n"
        "from orchestrator.models import build_modules\n"
        "assert orchestrator.load_profile('local').kind == 'local'\n"
        "build_modules(CnnConfig(size='debug', in_channels=1, outputs=2), ClassificationConfig())\n"
        "print(orchestrator.__file__)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [python, "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert Path(answer.stdout.strip()).is_relative_to(tmp_path)
