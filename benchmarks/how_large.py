"""How large a model: what ``plan`` predicts for GPTs of 1.5 to 70 billion parameters on nodes of eight H100, and what each
worker sends in a step. Prints the tables of docs/how-large.md.

Run: ``python benchmarks/how_large.py``. Needs no GPU: a worker takes steps on tensors without memory, some ten seconds of
a quiet core each. Peaks are remembered in the home, as those of ``trainwright plan`` are. At last, with 6 GB of memory, two
real ranks take steps of a ``gpt`` of 124 million parameters on the CPU, and are held against what is predicted of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from orchestrator import sdk
from orchestrator.fitting.ask import Simulator, simulator
from orchestrator.fitting.simulate import measure
from orchestrator.models.sizes import count
from orchestrator.planning.devices import DEVICE_MEMORY, Device
from orchestrator.planning.peak import Peak
from orchestrator.planning.plan import Plan
from orchestrator.planning.traffic import traffic
from orchestrator.planning.verdict import needed
from orchestrator.spec.load import home
from orchestrator.strategies.ranks import Ranks

os.environ["DS_ACCELERATOR"] = "cpu"  # for the import that all ranks share
HERE = Path(__file__).parent
CLUSTER = str(HERE / "clusters" / "h100s.yaml")
H100 = Device(name="H100", memory=DEVICE_MEMORY["H100"])
NODE = 8
"""GPUs of a node."""
NVLINK, NETWORK = 450e9, 50e9
"""Bytes a second from each GPU to others of its node, and to other nodes: NVLink of an H100, a 400 Gb/s adapter for each."""
TFLOPS, SHARE = 989e12, 0.45
"""Dense bf16 peak of an H100, and the share of it that the time of computing is reckoned with."""

SMALLER = {
    "1.5b": "model={family: gpt, size: 1.5b, context: 4096, vocabulary: 32000}",
    "7b": "model={family: gpt, size: 7b, vocabulary: 32000}",
}
SMALL = "model={family: gpt, size: 124m, context: 64, vocabulary: 50257}"
ON_CPUS = [
    "scaling={workers: 2, gpus_per_worker: 0}",
    "training.global_batch_size=2",
    "training.precision=fp32",
    "data.prepare.context=64",
]
STRATEGIES = {
    "ddp": "{kind: ddp}",
    "zero 1": "{kind: zero, stage: 1}",
    "zero 3": "{kind: zero, stage: 3}",
    "zero 3, group": "{kind: zero, stage: 3, shard_group: node}",
    "fsdp": "{kind: fsdp}",
    "fsdp, group": "{kind: fsdp, shard_group: node}",
}


class Case(NamedTuple):
    model: str
    strategy: str
    nodes: int

    @property
    def plan(self) -> Plan:
        """As ``trainwright plan`` makes it, one sequence a worker and step."""
        workers = self.nodes * NODE
        overrides = [f"strategy={STRATEGIES[self.strategy]}", f"scaling.workers={workers}"]
        overrides += [f"training.global_batch_size={workers}"]
        overrides += [SMALLER[self.model]] if self.model in SMALLER else []
        job = HERE / ("gpt-70b.yaml" if self.model == "70b" else "gpt-13b.yaml")
        return sdk.make_plan(job, CLUSTER, run_id="how-large", overrides=overrides)


ONE_NODE = [
    *(Case("1.5b", strategy, 1) for strategy in ("ddp", "fsdp")),
    *(Case("7b", strategy, 1) for strategy in ("zero 1", "fsdp")),
]
SHARDED = ("fsdp", "fsdp, group", "zero 3", "zero 3, group")
SEVERAL = [
    Case(model, strategy, nodes) for model, nodes, strategy in product(("13b", "70b"), (2, 8, 32), SHARDED)
]


def fit_row(case: Case, plan: Plan, peak: Peak) -> list[str]:
    state = peak.parameters + peak.masters + peak.gradients + peak.moments
    bytes_needed = needed(H100, peak)
    return [
        case.model,
        case.strategy,
        f"{case.nodes} × {NODE}",
        gigabytes(state),
        gigabytes(peak.total - state),
        gigabytes(bytes_needed),
        "fits" if bytes_needed <= H100.memory else "does not fit",
    ]


def traffic_row(case: Case, plan: Plan) -> list[str]:
    """Bytes that a GPU sends, and seconds that they take where nothing else does; seconds that computing takes."""
    sent = traffic(plan, node=NODE)
    flops = count(plan.job.model, plan.job.objective).flops_per_sample * 4 / 3  # blocks are computed again
    return [
        case.model,
        case.strategy,
        f"{case.nodes} × {NODE}",
        gigabytes(sent.within),
        gigabytes(sent.between),
        f"{sent.within / NVLINK:.2f} s",
        f"{sent.between / NETWORK:.2f} s",
        f"{flops / TFLOPS / SHARE:.2f} s",
    ]


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def table(head: str, rows: Iterator[list[str]]) -> None:
    names = head.split(", ")
    print(f"\n| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def fit_rows(cases: list[Case], ask: Simulator) -> Iterator[list[str]]:
    for case in cases:
        plan = case.plan
        yield fit_row(case, plan, ask.peak(plan, H100))


def measured_rows(ask: Simulator) -> Iterator[list[str]]:
    """Of two real ranks the one that holds most."""
    with Ranks(2, timeout_seconds=600, preload=["deepspeed"]) as ranks:
        for strategy, recomputation in product(("ddp", "zero 1", "zero 3", "fsdp"), ("none", "blocks")):
            overrides = [SMALL, f"strategy={STRATEGIES[strategy]}", f"training.recomputation={recomputation}"]
            plan = sdk.make_plan(HERE / "gpt-13b.yaml", run_id="how-large", overrides=[*overrides, *ON_CPUS])
            held = max(peak.total for peak in ranks.run(measure, plan))
            predicted = ask.peak(plan).total
            error = f"{predicted / held - 1:+.1%}"
            yield [strategy, recomputation, f"{predicted / 1e6:,.0f} MB", f"{held / 1e6:,.0f} MB", error]


def main() -> None:
    columns = "model, strategy, nodes × GPUs, state, all else at the peak, a worker needs, of 80 GB"
    with simulator(home() / "cache" / "peaks") as ask:
        table(columns, fit_rows(ONE_NODE, ask))
        table(columns, fit_rows(SEVERAL, ask))
    table(
        "model, strategy, nodes × GPUs, within the node, between nodes, at 450 GB/s, at 50 GB/s, computing",
        (traffic_row(case, case.plan) for case in SEVERAL),
    )
    with simulator(home() / "cache" / "peaks") as ask:
        table("strategy, recomputation, predicted, measured, error", measured_rows(ask))


if __name__ == "__main__":
    main()
