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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_gpt
import gpu_switches
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import text_samples
import torch

from orchestrator import data, loop, sdk, strategies
from orchestrator.checkpoint import Checkpoints
from orchestrator.data import StepBatch
from orchestrator.fitting.ask import simulator
from orchestrator.fitting.simulate import allocated
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import CausalLmConfig
from orchestrator.models.sizes import count
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank, assemble
from orchestrator.spec.job import JobSpec
from orchestrator.telemetry.device_peaks import peak_tflops
from orchestrator.testing import RecordingSurroundings, steps_of

ROOT = Path(__file__).parents[1]
IS_GPU = gpu_switches.IS_GPU
DEVICE = gpu_switches.DEVICE
CONTEXT, MICRO_BATCH, STEPS = (1024, 8, 30) if IS_GPU else (32, 1, 1)
SIZES = {"124m": 8, "350m": 4, "1.5b": 1} if IS_GPU else {"debug": 1}
"""Size -> samples of a micro-batch."""
STRATEGIES = [name for name in gpu_gpt.KINDS if name != "bare again"]
MEMORY = [*((strategy, "none") for strategy in STRATEGIES if strategy != "bare"), ("ddp", "blocks")]
WARM = 5 if IS_GPU else 2
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
    plan = gpu_gpt.plan_of(config, {"kind": "ddp"}, DEVICE, SIZES[size], steps)
    plan = plan.model_copy(update={"checkpoint_every": 3})
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
    return {
        "save_ms": [1e3 * one for one in times],
        "step_ms": 1e3 * (wall - sum(times)) / steps,
        "of_a_minute": times[-1] / 60,  # the first one pins its buffers
    }


def memory(strategy: str, recomputation: str) -> Result:
    """The peak that ``plan`` predicts, and the device's."""
    size = next(iter(SIZES))
    plan = gpu_gpt.plan_of(
        gpu_gpt.config_of(size, CONTEXT),
        gpu_gpt.KINDS[strategy],
        DEVICE,
        SIZES[size],
        1,
        recomputation=recomputation,
    )
    with tempfile.TemporaryDirectory() as remembered, simulator(Path(remembered)) as ask:
        predicted = ask.peak(plan).total
    held = allocated(plan, DEVICE)
    return {
        "predicted_mib": predicted / 2**20,
        "allocated_mib": held / 2**20,
        "error_of_prediction": predicted / held - 1,
    }


def parquet() -> Result:
    """Steps whose tokens come from a Parquet file, through the reader, pinned memory and the copying stream, beside steps whose
    tokens lie on the device."""
    size, steps = next(iter(SIZES)), WARM + STEPS
    config, batch = gpu_gpt.config_of(size, CONTEXT), SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.parquet"
        generator = np.random.default_rng(1)
        tokens = generator.integers(0, gpu_gpt.VOCABULARY, (batch * steps, CONTEXT + 1), dtype=np.int32)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), CONTEXT + 1)
        pq.write_table(pa.table({"tokens": rows}), path, row_group_size=64)
        job = {
            "name": "parquet",
            "model": config.model_dump(exclude_none=True, by_alias=True),
            "objective": {"kind": "causal_lm"},
            "data": {"train": {"kind": "parquet", "path": str(path)}, "reader": "worker"},
            "training": {
                "max_steps": steps,
                "global_batch_size": batch,
                "micro_batch_size": batch,
                "precision": "bf16",
                "log_every": steps,
            },
            "scaling": {"workers": 1, "gpus_per_worker": int(IS_GPU)},
            "tracking": {"kind": "none"},
        }
        plan = sdk.make_plan(JobSpec.model_validate(job))
        prepared = data.prepare(plan)
        rank = assemble(plan)
        read, waits = _timed(plan, rank, rank.on_device(rank.open_train(prepared, start_step=0)))
        lying = {"tokens": torch.from_numpy(tokens[:batch].astype(np.int64))}
        there, _ = _timed(plan, rank, steps_of([lying] * steps, plan, device=DEVICE))
        rank.close()
    return {
        "read_step_ms": 1e3 * read,
        "lying_step_ms": 1e3 * there,
        "ratio": read / there,
        "data_wait_share": waits,
    }


def _timed(plan: Plan, rank: Rank, stream: Iterator[StepBatch]) -> tuple[float, float]:
    """Seconds of a step once warm, and the share of the time that the loop waited for data."""
    begun = 0.0

    def marked() -> Iterator[StepBatch]:
        nonlocal begun
        for number, step in enumerate(stream):
            begun = _now() if number == WARM else begun
            yield step

    around = RecordingSurroundings()
    loop.train(plan, rank.engine, rank.objective, marked(), around, 0)
    seconds = around.logged[-1].seconds
    return (_now() - begun) / STEPS, seconds["data_wait"] / sum(seconds.values())


def _now() -> float:
    """When the device has done what it was asked."""
    if IS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


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
        "data from Parquet": (parquet,),
        **{
            f"memory {strategy} {recomputation}": (memory, strategy, recomputation)
            for strategy, recomputation in MEMORY
        },
        "whole run": (whole_run,),
        **{
            f"gpt {size} {strategy}{' compiled' * compiled}": (gpt, size, strategy, compiled)
            for size in SIZES
            for compiled in compilations
            for strategy in STRATEGIES
            if not (compiled and strategy.startswith("zero"))
        },
    }


def missed(results: dict[str, Result]) -> list[str]:
    """The bars that the numbers miss, a sentence each. Those of speed are for a GPU."""
    found = []
    for name, result in results.items():
        if abs(result.get("error_of_prediction", 0)) > 0.1:
            found.append(
                f"{name}: {result['error_of_prediction']:+.0%} from what was allocated, more than 10 %"
            )
        if result.get("of_a_minute", 0) > 0.01:
            found.append(f"{name}: a save holds up {result['of_a_minute']:.1%} of a minute, more than 1 %")
        if (result.get("of_bare") or 1) < 0.99:
            found.append(f"{name}: {result['of_bare']:.3f} of the bare loop's speed, less than 0.99")
        if name.startswith("gpt 1.5b") and (result.get("mfu") or 1) < 0.45:
            found.append(f"{name}: {result['mfu']:.0%} of the device's peak, less than 45 %")
    return found


def beside_bare(results: dict[str, Result]) -> dict[str, Result]:
    """Each speed with its share of the bare loop's, with the same kernels."""
    speeds = {name: result.get("tokens_per_second") for name, result in results.items()}
    shares = {}
    for name, speed in speeds.items():
        _, size, *rest = [*name.split(), ""]
        bare = speeds.get(f"gpt {size} bare{' compiled' * ('compiled' in rest)}")
        shares[name] = {"of_bare": speed / bare} if IS_GPU and speed and bare else {}
    return {name: {**result, **shares[name]} for name, result in results.items()}


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
    results = beside_bare(results)
    device = torch.cuda.get_device_name() if IS_GPU else "CPU, sizes of debugging"
    said = {
        "device": device,
        "torch": torch.__version__,
        "results": results,
        "left": left,
        "missed": missed(results),
    }
    (chosen.folder / "results.json").write_text(json.dumps(said, indent=2) + "\n")
    (chosen.folder / "results.md").write_text(f"{device}, torch {torch.__version__}\n\n{table(results)}")
    print(table(results), *missed(results), sep="\n")
    if left:
        print(f"no time was left for {', '.join(left)}: the same command goes on with them")
    failed = [name for name, result in results.items() if "error" in result or result.get("failed")]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
