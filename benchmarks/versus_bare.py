"""What trainwright costs beside bare scripts of the same model: step time and time to the first step, as ratios.

``python benchmarks/versus_bare.py [step-1] [step-2] [ray-2] [start-1] [start-2] [--rounds 3]
[--reader worker|ray]``

Each ratio comes from rounds that alternate ours and the peer's in one run, so that whatever else the machine does
falls on both. ``step-N``: median step of N workers against a bare PyTorch loop (N = 1) or torchrun DDP (N = 2), data
in memory, tracking on. ``ray-N``: the same against that loop in Ray Train, whose own processes take their share of the
cores as well. ``start-N``: from ``trainwright run`` to the first step, against the smallest Ray Train script; and at
which second each of our stages began, medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 300
WARM = 60
FIRST_STEP = "the first step is taken"
JOB = {
    "name": "bench",
    "model": {"family": "cnn", "size": "small", "in_channels": 1, "outputs": 10},
    "data": {"train": {"kind": "builtin", "name": "digits"}, "reader": "worker"},
    "training": {
        "max_steps": STEPS,
        "global_batch_size": 64,
        "log_every": 20,
        "optimizer": {"kind": "adamw", "learning_rate": 1e-3},
        "schedule": {"kind": "constant"},
    },
    "checkpoint": {"every_steps": STEPS},
    "tracking": {"log_model": False},
}

BARE = """
import os, sys, time, json
start = time.time()
import torch, torch.distributed as dist
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import ClassificationConfig, CnnConfig
from sklearn.datasets import load_digits
steps = int(sys.argv[1])
world = int(os.environ.get("WORLD_SIZE", 1))
torch.manual_seed(0)
config, kind = CnnConfig(size="small", in_channels=1, outputs=10), ClassificationConfig()
model = build_modules(config, kind)["model"]
if world > 1:
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None]
labels = torch.tensor(digits.target)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
share = 64 // world
seconds = []
for step in range(steps):
    began = time.perf_counter()
    at = torch.randint(len(images), (share,))
    loss = torch.nn.functional.cross_entropy(model(images[at]), labels[at])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - began)
if int(os.environ.get("RANK", 0)) == 0:
    print("RESULT", json.dumps(seconds))
"""

IN_RAY = """
import os, sys
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

script, steps, workers = sys.argv[1:]

def loop(config):
    sys.argv = [script, steps]
    exec(compile(open(script).read(), script, "exec"), {})

ray.init(num_cpus=int(workers) + 1, include_dashboard=False, logging_level="ERROR")
TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=int(workers), resources_per_worker={"CPU": 1})).fit()
"""

SMALLEST = """
import os, time
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

def loop(config):
    import torch
    from orchestrator.models import build_modules
    from orchestrator.models.configs import ClassificationConfig, CnnConfig
    model = prepare_model(build_modules(CnnConfig(size="small", in_channels=1, outputs=10), ClassificationConfig())["model"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = torch.nn.functional.cross_entropy(model(torch.randn(32, 1, 8, 8)), torch.randint(10, (32,)))
    loss.backward()
    optimizer.step()
    if ray.train.get_context().get_world_rank() == 0:
        open(os.environ["FIRST_STEP"], "w").write(str(time.time()))

workers = int(os.environ["WORKERS"])
ray.init(num_cpus=workers + 1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1})).fit()
"""


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "TRAINWRIGHT_HOME": str(home), "OMP_NUM_THREADS": "1"}


def ours(home: Path, workers: int, steps: int = STEPS) -> list[dict[str, Any]]:
    """Events of a run by the command line."""
    job = home / "job.json.yaml"
    job.write_text(json.dumps({**JOB, "scaling": {"workers": workers}}))
    last = [f"training.max_steps={steps}", f"checkpoint.every_steps={steps}"]
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "run", str(job), "--json"]
    answer = subprocess.run(
        [*command, "--set", last[0], "--set", last[1]],
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    events = [line for line in lines if "event" in line]
    if not any(event["event"] == "metrics" for event in events):
        raise SystemExit(f"the run took no step:\n{answer.stdout[-2000:]}")
    return events


def metrics_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "metrics"]


def our_step_ms(home: Path, workers: int) -> float:
    metrics = metrics_of(ours(home, workers))
    return statistics.median(
        float(event["values"]["system/step_ms"]) for event in metrics if event["step"] > WARM
    )


def bare_step_ms(home: Path, workers: int, in_ray: bool) -> float:
    script = home / "bare.py"
    script.write_text(BARE)
    command = [sys.executable, str(script), str(STEPS)]
    if in_ray:
        trainer = home / "in_ray.py"
        trainer.write_text(IN_RAY)
        command = [sys.executable, str(trainer), str(script), str(STEPS), str(workers)]
    elif workers > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={workers}",
            *command[1:],
        ]
    answer = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=True)
    line = next(line for line in answer.stdout.splitlines() if "RESULT" in line)
    seconds = json.loads(line.split("RESULT", 1)[1])[WARM:]
    windows = [statistics.mean(seconds[i : i + 20]) for i in range(0, len(seconds), 20)]
    return float(1e3 * statistics.median(windows))


def our_start(home: Path, workers: int) -> dict[str, float]:
    """Stage -> seconds from the command to its beginning; the first step is the last."""
    began = time.time()
    events = ours(home, workers, steps=1)
    stages = {event["doing"]: event["time"] - began for event in events if event["event"] == "stage"}
    return {**stages, FIRST_STEP: metrics_of(events)[0]["time"] - began}


def smallest_start(home: Path, workers: int) -> float:
    script, mark = home / "smallest.py", home / "first_step"
    script.write_text(SMALLEST)
    began = time.time()
    subprocess.run(
        [sys.executable, str(script)],
        env={**environment(home), "FIRST_STEP": str(mark), "WORKERS": str(workers)},
        capture_output=True,
        check=True,
    )
    return float(mark.read_text()) - began


def pair(case: str, home: Path, stages: list[dict[str, float]]) -> tuple[float, float]:
    """Ours and the peer's, one after the other; with the stages of ours put to the others."""
    kind, _, count = case.partition("-")
    workers = int(count)
    if kind in ("step", "ray"):
        peer = bare_step_ms(home, workers, kind == "ray")
        return our_step_ms(home, workers), peer
    stages.append(our_start(home, workers))
    return stages[-1][FIRST_STEP], smallest_start(home, workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["step-1", "step-2", "ray-2", "start-1", "start-2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reader", choices=["worker", "ray"], default="worker", help="data.reader of ours")
    options = parser.parse_args()
    JOB["data"]["reader"] = options.reader
    print(f"{'case':<8} {'ours':>10} {'peer':>10} {'ratio':>7}   rounds")
    for case in options.cases:
        stages: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            if case.startswith("start"):
                our_start(Path(folder), int(case.partition("-")[2]))  # what is counted and prepared once
            pairs = [pair(case, Path(folder), stages) for _ in range(options.rounds)]
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        # what else the machine does falls on both of a round
        ratio = statistics.median(a / b for a, b in pairs)
        unit = "s" if stages else "ms"
        each = ", ".join(f"{a / b:.3f}" for a, b in pairs)
        print(f"{case:<8} {mine:>8.2f}{unit} {theirs:>8.2f}{unit} {ratio:>7.3f}   {each}", flush=True)
        for stage in stages[0] if stages else ():
            print(f"    {statistics.median(round_[stage] for round_ in stages):6.2f}  {stage}", flush=True)


if __name__ == "__main__":
    main()
