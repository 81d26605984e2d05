from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import say

_TEMPLATE = """\
# A trainwright job. `trainwright explain training.optimizer` says what a field means;
# `trainwright schema > job.schema.json` gives your editor completion and checks.
name: {name}

model:
  family: {family}         # the architecture family; sizes and fields: trainwright explain model
  size: debug

data:
  train:
    kind: {kind}           # builtin | parquet | csv | images | ...
    {where}
  eval: {{kind: split, fraction: 0.2}}
{columns}
training:
  epochs: 20               # or max_steps
  global_batch_size: 64    # over all workers
  # micro_batch_size: 16   # samples of one forward; the rest is accumulated
  precision: fp32          # fp32 | bf16 | fp16
  optimizer: {{kind: adamw, learning_rate: 3.0e-3, weight_decay: 0.01}}
  schedule: {{kind: cosine, warmup_steps: 20}}
  seed: 0

strategy: {{kind: ddp}}      # ddp | fsdp | zero (stage 1, 2, 3)

scaling:
  workers: 2
  cpus_per_worker: 1
  gpus_per_worker: 0

checkpoint:
  keep: {{last: 2, best: 1, metric: val/loss, mode: min}}
"""


def init(
    path: Annotated[str, typer.Argument(help="The file to write.", metavar="JOB.yaml")] = "job.yaml",
    family: Annotated[
        str, typer.Option("--family", help="The architecture family: cnn on images, mlp on tables.")
    ] = "cnn",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a commented job file that runs as it is."""
    import re
    from pathlib import Path

    from orchestrator.errors import SpecError

    starts = {
        "cnn": ("builtin", "name: digits", ""),
        "mlp": (
            "builtin",
            "name: breast_cancer",
            "  transforms:\n    - {kind: normalize, tensor: features, per: element}\n",
        ),
    }
    if family not in starts:
        raise SpecError(f"init writes a start for {' and '.join(starts)}; see examples/ for {family}")
    file = Path(path)
    if file.exists() and not force:
        raise SpecError(f"{path} is there already; --force overwrites it")
    kind, where, columns = starts[family]
    name = re.sub(r"[^a-z0-9-]+", "-", file.stem.lower()).strip("-")[:40] or "job"
    file.write_text(
        _TEMPLATE.format(name=name, family=family, kind=kind, where=where, columns=columns), encoding="utf-8"
    )
    say(f"wrote {path}; next: trainwright plan {path}, trainwright run {path}")
