"""Ray's own benchmark of preemptions, ours beside theirs: ``python benchmarks/preemptions.py [--seed 1]``.

Ray measures with it what its notice of a preemption is worth (release/train_tests/preemption): 1,600 steps of 1.13 s, a checkpoint every
400, four nodes that are drained with a deadline of 30 s, taken away then and replaced. It counts the steps that are taken again. Here
the same steps, checkpoints and drains by Ray's own call are on real Ray nodes of this machine, one worker each, with all times a fifth,
at steps drawn by a seed, one in each quarter; Ray itself goes by the clock. Three runs in turn have the same schedule, network,
data and storage:

- stock Ray Train that saves every 400 steps
- stock Ray Train whose loop asks ``get_preemption_info`` too, saves once when there is one, and goes on, as Ray's documentation advises
- ours, by ``recovery: {on_notice: save}``, which saves and leaves

The network itself writes down what it is given, in each rank: that counts the steps that were executed, and the samples of those that are in
the model that comes out. Its forwards sleep as long as a GPU would compute.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counted_net import FOLDER
from real_nodes import Nodes, begun_at, driver_of, output_of, plan_of, step_of
from stock_ray_train import fit, logged, restored, save

NOTICES, EPOCHS, BATCH = 4, 5, 24
STEP_SECONDS, WINDOW_SECONDS, LOOK_SECONDS = 1.13, 30.0, 5.0
"""Of Ray's benchmark: a step, from notice to end, and how often Ray Train looks for a notice."""


@dataclass(frozen=True)
class Design:
    """What all runs have in common."""

    steps: int = 1600
    workers: int = 2
    quicker: float = 5.0
    """Than Ray's, all times alike."""
    seed: int = 1

    @property
    def interval(self) -> int:
        """Steps from a checkpoint to the next."""
        return self.steps // NOTICES

    @property
    def steps_of_epoch(self) -> int:
        """No multiple of the interval, so that checkpoints lie within epochs."""
        return self.steps // EPOCHS

    def notices(self) -> list[Notice]:
        """One in each interval, never so near its end that the last one comes too late."""
        draw = random.Random(self.seed)
        return [
            Notice(int((number + draw.uniform(0.1, 0.9)) * self.interval), draw.randrange(self.workers))
            for number in range(NOTICES)
        ]


@dataclass(frozen=True)
class Notice:
    """That a node will be taken away."""

    step: int
    """Given as soon as this one is told."""
    node: int
    """Which of those that are there, the oldest first."""


@dataclass(frozen=True)
class Forward:
    """What one rank's network was given in one step."""

    time: float
    rows: Sequence[int]


@dataclass(frozen=True)
class Attempt:
    """What one group did."""

    start_step: int
    forwards: Sequence[Sequence[Forward]]
    """By rank, in their order."""


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    again: tuple[int, ...]
    """By preemption, how many steps were executed a second time."""
    step_seconds: float
    wall_seconds: float
    doubled: int
    missed: int
    """Samples, beside each one exactly as often as there are epochs; only steps that are in the final model count."""

    def wasted(self, workers: int) -> float:
        """Worker-seconds of steps that were executed again."""
        return sum(self.again) * self.step_seconds * workers

    def effective(self, steps: int) -> float:
        """Seconds of steps that counted, by the wall's."""
        return steps * self.step_seconds / self.wall_seconds


def result_of(attempts: Sequence[Attempt], design: Design, wall_seconds: float) -> Result:
    """
    Raises:
        SystemExit: the attempts don't make up the whole run.

    """
    ends = [*(attempt.start_step for attempt in attempts[1:]), design.steps]
    counted = [end - attempt.start_step for attempt, end in zip(attempts, ends, strict=True)]
    executed = [len(attempt.forwards[0]) for attempt in attempts]
    again = [done - kept for done, kept in zip(executed, counted, strict=True)]
    if again[-1] != 0 or min(again) < 0 or len(attempts) != NOTICES + 1:
        raise SystemExit(
            f"a run of attempts from {[one.start_step for one in attempts]} that took {executed} steps"
        )
    spans = [attempt.forwards[0][-1].time - attempt.forwards[0][0].time for attempt in attempts]
    times = Counter(
        row
        for attempt, kept in zip(attempts, counted, strict=True)
        for rank in attempt.forwards
        for forward in rank[:kept]
        for row in forward.rows
    )
    rows = range(design.steps_of_epoch * BATCH)
    return Result(
        again=tuple(again[:-1]),
        step_seconds=sum(spans) / (sum(executed) - len(attempts)),
        wall_seconds=wall_seconds,
        doubled=sum(max(0, times[row] - EPOCHS) for row in rows),
        missed=sum(max(0, EPOCHS - times[row]) for row in rows),
    )


def attempts_in(folder: Path, starts: Sequence[int], workers: int) -> list[Attempt]:
    """What networks wrote down, with the steps that their groups began from."""
    by_rank: list[list[list[Forward]]] = [[] for _ in range(workers)]
    for path in sorted(folder.iterdir(), key=lambda path: float(path.name.split("-")[1])):
        lines = map(json.loads, path.read_text().splitlines())
        by_rank[int(path.name.split("-")[0])].append([Forward(*line) for line in lines])
    if {len(files) for files in by_rank} != {len(starts)}:
        raise SystemExit(
            f"groups began from {list(starts)}, and networks of {list(map(len, by_rank))} by rank"
        )
    return [Attempt(start, forwards) for start, *forwards in zip(starts, *by_rank, strict=True)]


# -- a run under its schedule --------------------------------------------------------------------------------


class Progress:
    """What a run's driver has told."""

    def __init__(self, output: Path) -> None:
        self.starts: list[int] = []
        self._output = output
        self._news = threading.Condition()
        self._step, self._is_over = 0, False

    def follow(self, lines: Iterable[str]) -> None:
        """Read to the end, in a thread of its own, and keep all of it."""
        with self._output.open("w") as kept:
            for line in lines:
                kept.write(line)
                if (start := begun_at(line)) is not None:
                    self.starts.append(start)
                elif (step := step_of(line)) is not None:
                    with self._news:
                        self._step = step
                        self._news.notify()
        with self._news:
            self._is_over = True
            self._news.notify()

    def wait_for(self, step: int) -> None:
        """
        Raises:
            SystemExit: the run has ended before.

        """
        with self._news:
            self._news.wait_for(lambda: self._is_over or self._step >= step)
            if self._is_over:
                end = "".join(self._output.read_text().splitlines(keepends=True)[-20:])
                raise SystemExit(f"the run ended before step {step}, after {self._step}:\n{end}")


def measured(command: list[str], folder: Path, design: Design) -> Result:
    """Run a driver, drain nodes by the schedule, take each away at its deadline and give another back."""
    taken, progress = folder / "taken", Progress(folder / "output")
    taken.mkdir()
    os.environ[FOLDER] = str(taken)
    window = WINDOW_SECONDS / design.quicker
    with Nodes() as nodes, ThreadPoolExecutor(1) as aside:
        there = [nodes.add() for _ in range(design.workers)]
        began = time.monotonic()
        with output_of(command, nodes.environment) as lines:
            end = aside.submit(progress.follow, lines)
            for notice in design.notices():
                progress.wait_for(notice.step)
                node = there.pop(notice.node)
                nodes.drain(node, window)
                time.sleep(window)
                nodes.take_away(node)
                there.append(nodes.add())
            end.result()
            wall = time.monotonic() - began
    return result_of(attempts_in(taken, progress.starts, design.workers), design, wall)


# -- the three -----------------------------------------------------------------------------------------------


def ours(folder: Path, design: Design) -> list[str]:
    """A driver's command."""
    job = {
        "name": "preemptions",
        "model": {
            "family": "custom",
            "factory": "counted_net:CountedNet",
            "config": {"seconds": STEP_SECONDS / design.quicker},
        },
        "objective": {"kind": "classification"},
        "data": {
            "train": {"kind": "csv", "path": str(folder.parent / "rows.csv")},
            "columns": {"features": ["row", *"abcd"], "label": "label"},
            "reader": "worker",
        },
        "training": {"max_steps": design.steps, "global_batch_size": BATCH, "log_every": 1},
        "scaling": {"workers": design.workers},
        "checkpoint": {"every_steps": design.interval},
        "recovery": {"on_notice": "save", "max_failures": 0},
        "tracking": {"kind": "none"},
    }
    return driver_of(plan_of(folder, job))


def stock(folder: Path, design: Design) -> list[str]:
    """This file, as the driver of Ray Train."""
    config = {
        "rows": str(folder.parent / "rows.csv"),
        "seconds": STEP_SECONDS / design.quicker,
        "workers": design.workers,
        "steps": design.steps,
        "interval": design.interval,
        "steps_of_epoch": design.steps_of_epoch,
        "saves_on_notice": False,
    }
    (folder / "stock.json").write_text(json.dumps(config))
    return [sys.executable, __file__, "--stock", str(folder)]


def stock_on_notice(folder: Path, design: Design) -> list[str]:
    """As ``stock``, and its loop saves on notice."""
    command = stock(folder, design)
    config = json.loads((folder / "stock.json").read_text())
    (folder / "stock.json").write_text(json.dumps({**config, "saves_on_notice": True}))
    return command


WAYS: dict[str, Callable[[Path, Design], list[str]]] = {
    "Ray Train, at intervals": stock,
    "Ray Train, its loop saves on notice": stock_on_notice,
    "trainwright": ours,
}


def write_rows(path: Path, design: Design) -> None:
    """Numbered rows with random features and labels."""
    draw = random.Random(design.seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["row", "a", "b", "c", "d", "label"])
        for row in range(design.steps_of_epoch * BATCH):
            table.writerow([row, *(round(draw.gauss(0, 1), 4) for _ in "abcd"), draw.randrange(3)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=Design.steps, help="a multiple of 20")
    parser.add_argument("--workers", type=int, default=Design.workers)
    parser.add_argument("--quicker", type=float, default=Design.quicker, help="than Ray's times")
    parser.add_argument("--seed", type=int, default=Design.seed, help="of the steps and nodes of the notices")
    parser.add_argument("--stock", metavar="FOLDER", help="be the driver of stock Ray Train")
    options = parser.parse_args()
    if options.stock:
        config = json.loads(Path(options.stock, "stock.json").read_text())
        failures = {"max_failures": 0, "max_preemption_failures": NOTICES + 2}
        fit(steps_of_a_worker, config, Path(options.stock), config["workers"], **failures)
        return
    design = Design(options.steps, options.workers, options.quicker, options.seed)
    before = os.environ.get("PYTHONPATH")
    os.environ.update(
        PYTHONPATH=os.pathsep.join(filter(None, [str(Path(__file__).parent), before])),
        RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S=f"{LOOK_SECONDS / design.quicker:g}",
    )
    print(f"notices at {[(notice.step, notice.node) for notice in design.notices()]}", flush=True)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as place:
        write_rows(Path(place, "rows.csv"), design)
        for name, prepare in WAYS.items():
            folder = Path(place, prepare.__name__)
            folder.mkdir()
            results[name] = measured(prepare(folder, design), folder, design)
            print(f"{name}: {results[name]}", flush=True)
    print_table(results, design)


def print_table(results: dict[str, Result], design: Design) -> None:
    """Each run, and its ratios to the first."""
    print(
        "| | steps taken again | by preemption | worker-seconds of them | wall, s | effective | samples doubled | missed |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, result in results.items():
        print(
            f"| {name} | {sum(result.again)} | {', '.join(map(str, result.again))} | {result.wasted(design.workers):.0f}"
            f" | {result.wall_seconds:.0f} | {result.effective(design.steps):.0%} | {result.doubled} | {result.missed} |"
        )
    first, *others = results
    base = results[first]
    for name in others:
        result = results[name]
        print(
            f"{name}: steps taken again {sum(result.again) / sum(base.again) - 1:+.0%}, worker-seconds of them"
            f" {result.wasted(design.workers) / base.wasted(design.workers) - 1:+.0%}, wall"
            f" {result.wall_seconds / base.wall_seconds - 1:+.0%} of {first}"
        )


# -- stock Ray Train -----------------------------------------------------------------------------------------


def steps_of_a_worker(config: dict[str, Any]) -> None:
    """On each of Ray Train's workers."""
    import pandas
    import torch
    from counted_net import CountedNet
    from ray import train
    from ray.train.torch import prepare_data_loader, prepare_model
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    table = pandas.read_csv(config["rows"])
    features = torch.tensor(table.drop(columns="label").to_numpy(), dtype=torch.float32)
    rows = TensorDataset(features, torch.tensor(table["label"].to_numpy()))
    share = BATCH // config["workers"]
    loader = prepare_data_loader(DataLoader(rows, batch_size=share, shuffle=True))
    bare = CountedNet(config["seconds"])
    model = prepare_model(bare)
    optimizer = torch.optim.AdamW(model.parameters())
    step, has_saved = restored(bare, optimizer), False
    while step < config["steps"]:
        loader.sampler.set_epoch(step // config["steps_of_epoch"])
        for batch, labels in loader:
            loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            logged(step)
            on_notice = (
                config["saves_on_notice"] and not has_saved and train.get_preemption_info() is not None
            )
            has_saved = has_saved or on_notice
            if on_notice or step % config["interval"] == 0 or step == config["steps"]:
                save(bare, optimizer, step, float(loss.detach()))
            if step == config["steps"]:
                break


if __name__ == "__main__":
    main()
