"""The Markdown of docs/mistakes.md: wrong job files and commands, with what each is answered, by running them all."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from orchestrator import cli

HEAD = """\
# Mistakes and their answers

<!-- written by scripts/written_pages.py, which runs every command; change scripts/wrong_jobs.py instead -->

What is written wrongly is answered in a sentence that says what, where and how to mend it, and an exit code: 2 for a
wrong job file or usage, 3 for what the job's code or data gets wrong, 4 for the machine, the cluster or the storage, 6
for what is not found. Nothing is started. Each command below was run as it stands, and this page is what it answered:
`job.yaml` is what `trainwright init job.yaml` writes, `gpt.yaml` and the like what `init --family` does, and an arrow
says what was changed in it. `table.csv` has the columns size, weight and label, `pets` pictures of two sizes in two
folders; the run `taken` is one that failed before its first save. `/home/you` stands for the folder of all these.
"""


@dataclass(frozen=True)
class Wrong:
    """One mistake.

    Attributes:
        command: what is run, without ``trainwright``; variables may stand before it.
        edits: what in its job file is another text, each with that text.

    """

    command: str
    edits: tuple[tuple[str, str], ...] = ()

    @property
    def job(self) -> str:
        """The job file of the command."""
        return next(word for word in self.command.split() if word.endswith(".yaml"))

    @property
    def shown(self) -> str:
        """As a person reads it."""
        command = f"`{_with_program(self.command)}`"
        changes = [f"`{_short(old)}` → {f'`{_short(new)}`' if new else 'nothing'}" for old, new in self.edits]
        return "<br>".join([command, *changes])


@dataclass(frozen=True)
class Answer:
    """What a person gets for a command.

    Attributes:
        code: of the exit.
        message: on standard error.
        cpu_seconds: of this process.

    """

    code: int
    message: str
    cpu_seconds: float


def job(old: str, new: str, file: str = "job.yaml") -> Wrong:
    """A job file with ``new`` in the place of ``old``, planned."""
    return Wrong(f"plan {file}", ((old, new),))


def own(source: str, *edits: tuple[str, str]) -> Wrong:
    """The convolutional job on another data source, planned."""
    return Wrong("plan job.yaml", ((SOURCE, f"train: {source}"), *edits))


SOURCE = "train:\n    kind: builtin          # your own files: trainwright init --data FILE\n    name: digits"
_NO_FOLDER = "TRAINWRIGHT_HOME=book.txt"

SECTIONS: dict[str, tuple[Wrong, ...]] = {
    "How a job file is written": (
        job("epochs: 20", "epoch: 20"),
        job("model:", "modle:"),
        job("workers: 2", "workers: two"),
        job("epochs: 20", "epochs: ten"),
        job("seed: 0", "seed: 0\n  seed: 1"),
        job("workers: 2", "workers: 2\n\tgpus: 1"),
        job("scaling:", "scaling: ["),
        job("name: job", "name: My Job!"),
        job("name: job", ""),
        job("strategy: {kind: ddp}", "strategy: {kind: horovod}"),
        job("strategy: {kind: ddp}", "strategy: {kind: zero, stage: 4}"),
        job("cpus_per_worker: 1", "memory_per_worker: 12 Gigs"),
        job("precision: fp32", "precision: fp8"),
        job("keep:", "every: 10\n  keep:"),
        Wrong("plan missing.yaml"),
        Wrong("plan ."),
        Wrong("plan binary.yaml"),
    ),
    "Numbers": (
        job("epochs: 20", "epochs: true"),
        job("workers: 2", "workers: 0"),
        job("epochs: 20", "max_steps: " + "9" * 299),
        job("epochs: 20", "epochs: 20\n  max_steps: 100"),
        job("learning_rate: 3.0e-3", "learning_rate: .nan"),
        job("warmup_steps: 20", "warmup_steps: 10000"),
        job("size: debug", "depth: 1000000", "mlp.yaml"),
        job("size: debug", "layers: 1000000", "gpt.yaml"),
        job("size: debug", f"width: {10**18}", "gpt.yaml"),
        job("size: debug", "width: 2000000000"),
        job("size: debug", "size: debug\n  heads: 7", "gpt.yaml"),
    ),
    "Model and objective": (
        job("family: cnn", "family: vision"),
        job("family: cnn", "family: cnnn"),
        job("size: debug", "size: 13b"),
        job("family: cnn", "family: gpt"),
        job("size: debug", "size: debug\nobjective: {kind: ranking}"),
        job("metric: val/loss", "metric: val/f1"),
        job("mode: min", "mode: max"),
        job("global_batch_size: 64", "global_batch_size: 100000"),
        job("global_batch_size: 64", "global_batch_size: 63"),
    ),
    "Data": (
        job("name: digits", "name: digit"),
        job("fraction: 0.2", "fraction: 2"),
        job("tensor: image", "tensor: picture"),
        own("{kind: images, path: pets}", ("global_batch_size: 64", "global_batch_size: 2")),
        own("{kind: images, path: nothing}"),
        own("{kind: csv, path: table.csv}"),
        own(
            "{kind: csv, path: table.csv}\n  columns: {features: [size, weigth]}",
            ("family: cnn", "family: mlp"),
        ),
        own("{kind: csv, path: table.csv}", ("family: cnn", "family: lstm")),
        own("{kind: csv, path: empty.csv}"),
        own("{kind: parquet, path: table.csv}"),
        own("{kind: hdf5, path: book.txt}"),
        Wrong("init new.yaml --data nothing.csv"),
        Wrong("init new.yaml --data book.docx"),
        Wrong("init new.yaml --data table.csv --label weigth"),
    ),
    "Strategy, surroundings and tracking": (
        job("strategy: {kind: ddp}", "strategy: {kind: fsdp, shard_group: 3}"),
        job("strategy: {kind: ddp}", "strategy: {kind: ddp, stage: 1}"),
        job("gpus_per_worker: 0", "gpus_per_worker: 64"),
        job("checkpoint:", "environment: {working_dir: nothing}\ncheckpoint:"),
        job("checkpoint:", "tracking: {uri: 'carrier-pigeon://x'}\ncheckpoint:"),
        job("checkpoint:", "tracking: {uri: 'https://me:secret@example.com'}\ncheckpoint:"),
    ),
    "Commands": (
        Wrong("run"),
        Wrong("explian model"),
        Wrong("run job.yaml --workers 2"),
        Wrong("plan job.yaml --set training.max_stepps=3"),
        Wrong("plan job.yaml --set training.epochs"),
        Wrong("plan job.yaml --cluster nowhere"),
        Wrong("plan job.yaml --cluster broken.yaml"),
        Wrong("list --cluster ray-example"),
        Wrong("init job.yaml"),
        Wrong("init new.yaml --family resnet"),
        Wrong("init nowhere/new.yaml"),
        Wrong("explain training.optimiser"),
        Wrong("explain model.nothing"),
    ),
    "Runs": (
        Wrong("submit job.yaml --id ../evil"),
        Wrong("submit job.yaml --id 'Bad ID!'"),
        Wrong("submit job.yaml --id a/b"),
        Wrong("submit job.yaml --id ."),
        Wrong("submit job.yaml --id /tmp/evil"),
        Wrong("submit job.yaml --id taken", (("seed: 0", "seed: 7"),)),
        Wrong("status yesterday"),
        Wrong("stop ../evil"),
        Wrong("resume taken --from 12"),
        Wrong("resume taken --set model.width=7"),
        Wrong("export taken"),
        Wrong("logs taken --rank 9"),
        Wrong("logs taken --rank -1"),
        Wrong("prune --older-than soon"),
        Wrong("delete yesterday --yes"),
    ),
    "Places": (
        Wrong(f"{_NO_FOLDER} submit job.yaml"),
        Wrong(f"{_NO_FOLDER} list"),
        Wrong("TMPDIR=book.txt submit job.yaml"),
    ),
}
"""Every mistake, below the headings of the page."""


@functools.cache
def answers() -> dict[Wrong, Answer]:
    """Run all of them in one process, in a folder of their files."""
    with tempfile.TemporaryDirectory() as made, surroundings(folder := Path(made).resolve()):
        write_files(folder)
        found = {wrong: _answer(wrong, folder) for wrongs in SECTIONS.values() for wrong in wrongs}
        started = sorted(path.name for path in (folder / "home/runs").iterdir())
    assert started == ["taken"], f"a mistake started or wrote runs: {started}"
    return found


def _answer(wrong: Wrong, folder: Path) -> Answer:
    words = shlex.split(wrong.command)
    variables = dict(word.split("=", 1) for word in words if "=" in word and word.split("=")[0].isupper())
    file = Path(wrong.job) if wrong.edits else Path(os.devnull)
    right = text = file.read_text()
    for old, new in wrong.edits:
        assert old in text, f"{old!r} is not in {file}"
        text = text.replace(old, new, 1)
    file.write_text(text)
    try:
        with mock.patch.dict(os.environ, variables):
            answer = trainwright(*words[len(variables) :])
    finally:
        file.write_text(right)
    return Answer(answer.code, answer.message.replace(str(folder), "/home/you"), answer.cpu_seconds)


def trainwright(*arguments: str) -> Answer:
    """The command line, called as the program does. What it raises beside its exit is a fault of ours, and goes on."""
    said, begun = io.StringIO(), time.process_time()
    with (
        mock.patch.object(sys, "argv", ["trainwright", *arguments]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            return Answer(int(ended.code or 0), said.getvalue().strip(), time.process_time() - begun)
    raise AssertionError(f"trainwright {shlex.join(arguments)} did not exit")


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """In this folder, with a home and settings below it."""
    places = {"TRAINWRIGHT_HOME": "home", "XDG_CONFIG_HOME": "config", "HOME": "."}
    variables = {name: str(folder / place) for name, place in places.items()}
    with contextlib.chdir(folder), mock.patch.dict(os.environ, variables):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        yield


def write_files(folder: Path) -> None:
    """The files that the commands name, and a run that ended."""
    import numpy as np
    from PIL import Image

    from orchestrator import sdk
    from orchestrator.clusters.local.status import pending
    from orchestrator.records import RunRecord
    from orchestrator.runs import EndReason, RunState

    trainwright("init", "job.yaml")
    for family in ("mlp", "gpt"):
        trainwright("init", f"{family}.yaml", "--family", family)
    for number, side in enumerate((8, 8, 8, 12)):
        kind = folder / "pets" / ("cat" if number % 2 else "dog")
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((side, side), np.uint8)).save(kind / f"{number}.png")
    rows = "".join(f"{row},{row / 7:.3f},{row % 3}\n" for row in range(600))
    (folder / "table.csv").write_text(f"size,weight,label\n{rows}")
    (folder / "empty.csv").write_text("")
    (folder / "book.txt").write_text("The quick brown fox jumps over the lazy dog.\n")
    (folder / "book.docx").write_bytes(b"PK")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    (folder / "broken.yaml").write_text("kind: nomad\n")
    plan = sdk.make_plan("job.yaml", run_id="taken")
    taken = folder / "home/runs/taken"
    taken.mkdir(parents=True)
    (taken / "plan.json").write_text(plan.model_dump_json())
    RunRecord(str(taken)).end(
        pending(plan, 1, 1000.0).ended(
            RunState.FAILED, EndReason.NAN_LOSS, "a loss is no number", ended_at=1075.0
        )
    )


def page() -> str:
    """The whole page."""
    found, text = answers(), HEAD
    for title, wrongs in SECTIONS.items():
        text += f"\n## {title}\n\n| What is run, and changed | Exit | Answer |\n|---|---|---|\n"
        for wrong in wrongs:
            said = "<br>".join(f"`{line}`" for line in found[wrong].message.splitlines())
            text += f"| {wrong.shown} | {found[wrong].code} | {said} |\n".replace("NAME|FILE", "NAME\\|FILE")
    return text


def _with_program(command: str) -> str:
    words = command.split(" ")
    variables = sum("=" in word and word.split("=")[0].isupper() for word in words)
    return " ".join([*words[:variables], "trainwright", *words[variables:]])


def _short(text: str) -> str:
    one_line = " ".join(line.split("  #")[0].strip() for line in text.replace("\t", "TAB ").splitlines())
    return one_line if len(one_line) <= 90 else f"{one_line[:40]}… ({len(one_line)} characters)"
