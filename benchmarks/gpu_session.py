"""All that a GPU is asked for, in one command of ten minutes: tests, speed beside a bare loop, memory, switches, a save.

Run: ``make gpu``, or ``python benchmarks/gpu_session.py [--folder gpu-session] [--seconds 600] [--only NAME,...]``. What is
done lies in the folder, a JSON file for each part, and is not done again; a part for which no time is left is named, and
done by the next call. ``results.json`` and ``results.md`` are all of it. Without a GPU the same code runs with sizes of
debugging on the CPU, which shows that it works and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gpu_gpt
import gpu_switches
import text_samples
import torch
from engine_bench import plan_for

from orchestrator import loop, strategies
from orchestrator.checkpoint import Checkpoints
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import CausalLmConfig
from orchestrator.models.sizes import count
from orchestrator.telemetry.device_peaks import peak_tflops
from orchestrator.testing import RecordingSurroundings, steps_of

ROOT = Path(__file__).parents[1]
IS_GPU = gpu_switches.IS_GPU
DEVICE = gpu_switches.DEVICE
CONTEXT, MICRO_BATCH, STEPS = (1024, 8, 30) if IS_GPU else (32, 1, 1)
SIZES = {"124m": 8, "350m": 4, "1.5b": 1} if IS_GPU else {"debug": 1}
"""Size -> samples of a micro-batch."""
STRATEGIES = [name for name in gpu_gpt.KINDS if name != "bare again"]
Result = dict[str, Any]


def tests() -> Result:
    """tests/gpu; without a GPU what of it is part of the default tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", "-m", "not slow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {
        kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    return {**counts, "failures": re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)}


def gpt(size: str, strategy: str, compiled: bool) -> Result:
    """Tokens/s, share of the device's peak and memory."""
    batch = SIZES[size]
    step, peak = gpu_gpt.measure(size, CONTEXT, batch, STEPS, gpu_gpt.KINDS[strategy], compiled)
    counted = count(gpu_gpt.config_of(size, CONTEXT), CausalLmConfig())
    tflops = peak_tflops(torch.cuda.get_device_name()) if IS_GPU else None
    flops = counted.flops_per_sample * batch / step
    return {
        "tokens_per_second": batch * CONTEXT / step,
        "step_ms": 1e3 * step,
        "mfu": flops / (tflops * 1e12) if tflops else None,
        "peak_gib": peak / 2**30,
    }


def samples() -> Result:
    """Drawing text, each token read once, and a whole context for each."""
    config = gpu_gpt.config_of(next(iter(SIZES)), CONTEXT)
    model = build_modules(config, CausalLmConfig())["model"].eval().to(DEVICE)
    tokens = 128 if IS_GPU else 4
    whole = text_samples.seconds_a_token(text_samples.WholeContext(model, CONTEXT), CONTEXT, 4, 4, DEVICE)
    once = text_samples.seconds_a_token(model, CONTEXT, 4, tokens, DEVICE)
    return {"whole_context_ms": 1e3 * whole, "once_ms": 1e3 * once, "ratio": whole / once}


def switch(name: str) -> Result:
    """One of ``gpu_switches``."""
    without, with_ = gpu_switches.measured(name)
    return {"without_ms": 1e3 * without, "with_ms": 1e3 * with_, "ratio": without / with_}


def stall() -> Result:
    """How long the loop waits for a save, beside a step's time."""
    size = next(iter(SIZES))
    config, kind = gpu_gpt.config_of(size, CONTEXT), CausalLmConfig()
    objective, steps = build_objective(config, kind), 6
    parameters = count(config, kind).parameters
    planned = plan_for(
        {"kind": "ddp"}, 1, steps=steps, parameters=parameters, precision="bf16", batch=SIZES[size]
    )
    plan = gpu_gpt.on_device(planned.model_copy(update={"checkpoint_every": 3}), DEVICE)
    engine = strategies.prepare(plan, build_modules(config, kind), objective, DEVICE)
    tokens = torch.randint(0, gpu_gpt.VOCABULARY, (SIZES[size], CONTEXT + 1))
    times: list[float] = []

    class Timed(RecordingSurroundings):
        def save(self, step: int, metrics: dict[str, float]) -> None:
            begun = time.perf_counter()
            super().save(step, metrics)
            times.append(time.perf_counter() - begun)

    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(folder, attempt=1, rank=0, world_size=1)
        begun = time.perf_counter()
        around = Timed(checkpoints=store, engine=engine)
        loop.train(
            plan, engine, objective, steps_of([{"tokens": tokens}] * steps, plan, device=DEVICE), around, 0
        )
        wall = time.perf_counter() - begun
        store.wait()
        store.close()
    return {"save_ms": [1e3 * one for one in times], "step_ms": 1e3 * (wall - sum(times)) / steps}


def whole_run() -> Result:
    """A run from the command line, its images from files."""
    main = "from orchestrator.cli import main; main()"
    settings = ["scaling.workers=1", f"scaling.gpus_per_worker={int(IS_GPU)}", "training.epochs=null"]
    settings += ["training.max_steps=20", "training.evaluate_every=10", "training.precision=bf16"]
    more = [part for one in settings for part in ("--set", one)]
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, "-c", main, "run", "examples/digits-cnn.yaml", "--json", *more],
            cwd=ROOT,
            env=os.environ | {"TRAINWRIGHT_HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return {"last": done.stdout.strip().splitlines()[-1][:500]}


def parts() -> dict[str, tuple[Any, ...]]:
    """Name -> function and its arguments, the most important first."""
    compilations = (False, True) if IS_GPU else (False,)
    return {
        "tests": (tests,),
        "samples": (samples,),
        **{f"switch: {name}": (switch, name) for name in gpu_switches.names()},
        "stall": (stall,),
        "whole run": (whole_run,),
        **{
            f"gpt {size} {strategy}{' compiled' * compiled}": (gpt, size, strategy, compiled)
            for size in SIZES
            for compiled in compilations
            for strategy in STRATEGIES
            if not (compiled and strategy.startswith("zero"))
        },
    }


def table(results: dict[str, Result]) -> str:
    """All results, a line for each."""
    lines = ["| part | result |", "|---|---|"]
    for name, result in results.items():
        said = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in result.items()
        )
        lines.append(f"| {name} | {said} |")
    return "\n".join(lines) + "\n"


def file_of(folder: Path, name: str) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower())}.json"


def do_all(names: list[str], folder: Path, seconds: float) -> list[str]:
    """Do each part in a process of its own while there is time; the names of those that are left."""
    end, left = time.monotonic() + seconds, []
    for name in names:
        if file_of(folder, name).exists():
            continue
        if (rest := end - time.monotonic()) <= 0:
            left.append(name)
            continue
        begun = time.monotonic()
        command = [sys.executable, __file__, "--folder", str(folder), "--part", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=rest, check=False)
        except subprocess.TimeoutExpired:
            left.append(name)
            continue
        if done.returncode:
            result: Result = {"error": done.stderr.strip().splitlines()[-1][:300]}
        else:
            result = json.loads(done.stdout.splitlines()[-1])
        file_of(folder, name).write_text(json.dumps({**result, "seconds": time.monotonic() - begun}))
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("gpu-session"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", default="")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    there = parts()
    if chosen.part:
        function, *arguments = there[chosen.part]
        print(json.dumps(function(*arguments)))
        return
    names = [name for name in there if not chosen.only or name in chosen.only.split(",")]
    chosen.folder.mkdir(parents=True, exist_ok=True)
    left = do_all(names, chosen.folder, chosen.seconds)
    results = {
        name: json.loads(file_of(chosen.folder, name).read_text())
        for name in names
        if file_of(chosen.folder, name).exists()
    }
    device = torch.cuda.get_device_name() if IS_GPU else "CPU, sizes of debugging"
    said = {"device": device, "torch": torch.__version__, "results": results, "left": left}
    (chosen.folder / "results.json").write_text(json.dumps(said, indent=2) + "\n")
    (chosen.folder / "results.md").write_text(f"{device}, torch {torch.__version__}\n\n{table(results)}")
    print(table(results))
    if left:
        print(f"no time was left for {', '.join(left)}: the same command goes on with them")
    failed = [name for name, result in results.items() if "error" in result or result.get("failed")]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
