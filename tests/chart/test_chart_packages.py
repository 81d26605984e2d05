"""The script that pods on Ray's own image install their packages with, run in a plain folder with small wheels."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from chartkit.combinations import ALL
from chartkit.helm import CHART, render
from chartkit.jobs import plan_for, profile_of
from test_chart_tools import script

from orchestrator.clusters.kubernetes.request import plan_to_rayjob

SCRIPT = CHART / "files" / "install_packages.py"
HERE = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.machine()}"
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
BACKEND = """\
import os, shutil
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    if "GATE" in os.environ:
        Path(os.environ["GATE"]).read_text()  # a pipe: waits until somebody writes
    shutil.copy("built-1-py3-none-any.whl", folder)
    return "built-1-py3-none-any.whl"
"""


def wheel_bytes(name: str, version: str = "1") -> bytes:
    """A wheel of one module."""
    files = {
        f"{name}.py": "value = 1\n",
        f"{name}-{version}.dist-info/METADATA": METADATA.format(name=name, version=version),
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{name}-{version}.dist-info/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in {**files, f"{name}-{version}.dist-info/RECORD": record}.items():
            archive.writestr(path, text)
    return out.getvalue()


def source_bytes() -> bytes:
    """A source package whose build can be held up, and needs nothing."""
    files = {
        "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.encode(),
        "built-1-py3-none-any.whl": wheel_bytes("built"),
        "PKG-INFO": METADATA.format(name="built", version="1").encode(),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"built-1/{path}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class Pods:
    """A ConfigMap's folder and a volume, and pods' init containers as processes."""

    def __init__(self, folder: Path) -> None:
        self.mounted, self.volume = folder / "install", folder / "volume"
        self.mounted.mkdir()
        self.volume.mkdir()
        self.folder = self.volume / "key"
        files = {"wheeled-1-py3-none-any.whl": wheel_bytes("wheeled"), "built-1.tar.gz": source_bytes()}
        for name, content in files.items():
            (self.mounted / name).write_bytes(content)
        hashes = [hashlib.sha256(content).hexdigest() for content in files.values()]
        self.requirements = (
            f"# for {HERE}, by scripts/lock_packages.py\nwheeled==1 --hash=sha256:{hashes[0]}\n"
            f"# from source\nbuilt==1 --hash=sha256:{hashes[1]}\n"
        )
        self.write(self.requirements)
        (self.mounted / "pip.conf").write_text(
            f"[global]\nno-index = true\nfind-links = {self.mounted}\n", encoding="utf-8"
        )

    def write(self, requirements: str) -> None:
        (self.mounted / "requirements.txt").write_text(requirements, encoding="utf-8")

    def start(self, **environment: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.folder)],
            env={**kept, "TRAINWRIGHT_PACKAGES": str(self.mounted), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self) -> tuple[int, str]:
        process = self.start()
        output = process.communicate(timeout=240)[0]
        return process.returncode, output

    def imports(self, *names: str) -> bool:
        command = [str(self.folder / "bin" / "python"), "-c", f"import {', '.join(names)}"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def pods(tmp_path):
    return Pods(tmp_path)


def test_pods_at_once_and_later_share_one_installation_also_after_one_was_killed(pods, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    killed = pods.start(GATE=str(gate))
    with gate.open("w", encoding="utf-8"):  # opens when the build waits
        waiting = pods.start()
        assert "waiting" in waiting.stdout.readline()
        assert waiting.poll() is None
        os.killpg(killed.pid, 9)
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    output = waiting.communicate(timeout=240)[0]
    assert waiting.returncode == 0, output
    assert "was begun and never finished" in output
    assert pods.imports("wheeled", "built")
    # three more, at once: nothing is installed again
    written = (pods.folder / "complete.json").stat().st_mtime_ns
    later = [pods.start() for _ in range(3)]
    texts = [process.communicate(timeout=120)[0] for process in later]
    assert [process.returncode for process in later] == [0, 0, 0]
    assert not any("installing" in text for text in texts)
    assert (pods.folder / "complete.json").stat().st_mtime_ns == written


REFUSED = {
    "other contents": (lambda text: text.replace("sha256:", "sha256:0")[:-2] + "\n", "could not install the packages"),
    "another Python": (lambda text: text.replace(HERE, "Python 3.8 on vax"), f"is for Python 3.8 on vax, and this image has {HERE}"),
    "no Python": (lambda text: text.partition("\n")[2], "doesn't say which Python it is for"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_meant_is_not_installed(pods, name):
    change, sentence = REFUSED[name]
    pods.write(change(pods.requirements))
    code, output = pods.run()
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output
    assert not (pods.folder / "complete.json").exists()


def test_an_installation_of_another_python_is_not_taken(pods):
    pods.folder.mkdir()
    (pods.folder / "complete.json").write_text('{"python": "Python 3.8 on vax"}', encoding="utf-8")
    code, output = pods.run()
    assert (code, output) == (
        1, f"{pods.folder} was installed for Python 3.8 on vax, and this image has {HERE}\n"
    )  # fmt: skip


def test_the_written_requirements_are_wheels_and_then_sources(tmp_path):
    lock = script("scripts/lock_packages.py")
    wheel = tmp_path / "ours-1-py3-none-any.whl"
    wheel.write_bytes(b"wheel")

    def found(name, url, **archive):
        return {
            "metadata": {"name": name, "version": "1"},
            "download_info": {"url": url, "archive_info": archive},
        }

    text = lock.locked(
        [
            found("built", "https://i.example.com/built-1.tar.gz", hashes={"sha256": "b" * 64}),
            found("ours", wheel.as_uri()),
            found("a", "https://i.example.com/a-1-py3-none-any.whl#x", hashes={"sha256": "a" * 64}),
        ]
    )
    ours = hashlib.sha256(b"wheel").hexdigest()
    assert text.splitlines() == [
        f"# for {HERE}, by scripts/lock_packages.py",
        f"a==1 --hash=sha256:{'a' * 64}",
        f"ours==1 --hash=sha256:{ours}",
        "# from source",
        f"built==1 --hash=sha256:{'b' * 64}",
    ]
    with pytest.raises(SystemExit, match="gives no sha256"):
        lock.locked([found("a", "https://i.example.com/a-1-py3-none-any.whl")])


def test_the_interactive_cluster_s_pods_install_as_a_job_s_do():
    """What the chart writes for its own cluster is what the client makes of the chart's profile."""
    objects = render({**ALL["presets/stock-image.yaml"], "rayCluster": {"enabled": True}})
    (cluster,) = [o for o in objects if o["kind"] == "RayCluster"]
    profile = profile_of(objects)
    job = plan_to_rayjob(plan_for(profile, 1, 0), profile)
    ours = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    theirs = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for key in ("command", "image", "volumeMounts", "securityContext"):
        assert ours["initContainers"][0][key] == theirs["initContainers"][0][key]

    def variables_of(pod):
        return {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}

    assert variables_of(theirs).items() <= variables_of(ours).items()
    assert ours["securityContext"] == theirs["securityContext"]

    def volumes_of(pod):
        return {each["name"]: each for each in pod["volumes"] if each["name"] in ("packages", "install")}

    assert volumes_of(ours) == volumes_of(theirs)
