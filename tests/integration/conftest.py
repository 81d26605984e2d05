import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "fakes"))
from command_line import CommandLine

from orchestrator import events


class Home(CommandLine):
    """A trainwright home of its own, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, home=folder)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            cwd=self.folder,
            # a shell's background jobs, and so a test run that is one, ignore Ctrl-C; a person's terminal does not
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def job(self, **sections) -> Path:
        """A job file: digits on two workers, small and quick, unless sections say otherwise."""
        training = {
            "max_steps": 2000,
            "global_batch_size": 32,
            "evaluate_every": 1000,
            "log_every": 50,
            "optimizer": {"learning_rate": 3e-3},
            **sections.pop("training", {}),
        }
        job = {
            "name": "job",
            "model": {"family": "mlp", "size": "debug", "dropout": 0.1},
            "data": {
                "train": {"kind": "builtin", "name": "breast_cancer"},
                "eval": {"kind": "split", "fraction": 0.2},
                "transforms": [{"kind": "normalize", "tensor": "features", "per": "element"}],
            },
            "training": {key: value for key, value in training.items() if value is not None},
            "scaling": {"workers": 2},
            "checkpoint": {"every_steps": 100},
            "tracking": {"log_model": False},
            **sections,
        }
        path = self.folder / "job.yaml"
        path.write_text(json.dumps(job))
        return path

    def status(self, run: str) -> dict:
        return json.loads(self.call("status", run, "--json").stdout)

    def why(self, run: str) -> dict:
        """Where an ended run's time went; all of it, to half a percent."""
        found, status = json.loads(self.call("why", run, "--json").stdout), self.status(run)
        wall = status["ended_at"] - status["submitted_at"]
        assert abs(sum(found["seconds"].values()) - wall) <= 0.005 * wall, (found, wall)
        return found

    def driver_log(self, run: str, launch: int = 1) -> Path:
        return self.folder / "runs" / run / "launches" / str(launch) / "driver.log"

    def wait_for(self, run: str, wanted, launch: int = 1):
        """Follow the run's own output until an event is the wanted one; an end is always the last."""
        from orchestrator.clusters import open_cluster
        from orchestrator.spec.profile import ClusterProfile

        cluster = open_cluster(ClusterProfile(name="local", kind="local", storage=str(self.folder)))
        for line in cluster.logs(run, follow=True):
            event = events.parse(line)
            if event and event["event"] != "end" and wanted(event):
                return event
        pytest.fail(f"{run} ended before the event:\n{self.driver_log(run, launch).read_text()[-3000:]}")

    def final_state(self, run: str):
        """Every tensor of the newest checkpoint by (kind, name)."""
        from orchestrator import checkpoint

        newest = checkpoint.newest_good(str(self.folder / "runs" / run / "checkpoints"))
        with checkpoint.open_reader(newest) as reader:
            tensors = {}
            for (kind, name), (shape, _) in reader.tensors().items():
                size = 1
                for length in shape:
                    size *= length
                tensors[kind, name] = reader.read(kind, name, 0, size)
        return newest.step, tensors

    def processes(self, run: str) -> list[str]:
        """Command lines of a run's drivers and of all that belongs to their private Ray instances."""
        known = self.folder.glob(f"runs/{run}/launches/*/process.json")
        tokens = [f"{json.loads(path.read_text())['ray_dir']}/token".encode() for path in known]
        assert tokens
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                except OSError:
                    continue
                if state != "Z" and any(b"RAY_AUTH_TOKEN_PATH=" + token in variables for token in tokens):
                    found.append(command.replace(b"\0", b" ").decode(errors="replace")[:150])
        return found

    def wait_until_gone(self, run: str, seconds: float = 15) -> None:
        """Processes end a moment after the file that says so."""
        deadline = time.monotonic() + seconds
        while self.processes(run) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.processes(run) == []


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def small_disk(tmp_path):
    """A home on a file system of 5 MB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield Home(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def own_tmpdir(tmp_path):
    """A home whose temporary files go to a folder that nothing else uses, short for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="tw", ignore_cleanup_errors=True) as folder:
        home = Home(tmp_path)
        home.environment["TMPDIR"] = folder
        yield home
