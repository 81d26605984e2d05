from __future__ import annotations

from dataclasses import dataclass
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
{objective}
data:
  train:
    kind: builtin          # or csv, parquet, text, images ...: trainwright explain data.train
    name: {source}
  eval: {{kind: split, fraction: 0.2{split}}}
{treatment}

training:
  {length:<24} # or {other}
  global_batch_size: 64    # over all workers
  # micro_batch_size: 16   # samples of one forward; the rest is accumulated
  precision: fp32          # fp32 | bf16 | fp16
  optimizer: {{kind: adamw, learning_rate: {rate}, weight_decay: 0.01{betas}}}
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


@dataclass(frozen=True)
class _Start:
    """What a family's first job has of its own."""

    source: str
    treatment: str
    """Of the data, lines under ``data``."""
    objective: str = ""
    split: str = ""
    max_steps: int | None = None
    """Where an epoch is long."""
    rate: str = "3.0e-3"
    betas: str = ""


def _prepare(kind: str, **fields: object) -> str:
    lines = [f"    {name}: {value}" for name, value in {"kind": kind, **fields}.items()]
    return "\n".join(["  prepare:                 # other ways: trainwright explain data.prepare", *lines])


_PIXELS = "  transforms:\n    - {{kind: scale, tensor: {tensor}, factor: 0.125, offset: -1.0}}   # from 0..16 to -1..1"
_WORDS = "{kind: words, vocabulary: 4000, lowercase: true}"
_STARTS = {
    "mlp": _Start("breast_cancer", "  transforms:\n    - {kind: normalize, tensor: features, per: element}"),
    "cnn": _Start("digits", _PIXELS.format(tensor="image")),
    "rnn": _Start(
        "docstrings",
        _prepare("tokenize", tokenizer=_WORDS, context=48, classify="false", label="kind"),
        objective="classification",
        max_steps=300,
    ),
    "lstm": _Start(
        "neuron",
        _prepare("windows", past=100, horizon=20),
        objective="forecasting",
        split=", by: position",
        max_steps=300,
    ),
    "gru": _Start(
        "docstrings", _prepare("pack", tokenizer=_WORDS, context=32), objective="causal_lm", max_steps=300
    ),
    "gpt": _Start(
        "pydoc_topics",
        _prepare("pack", tokenizer="{kind: characters, unknown: true}", context=64),
        max_steps=300,
    ),
    "bert": _Start(
        "docstrings",
        _prepare("pack", tokenizer="{kind: bpe, vocabulary: 2048}", context=64, next_token="false"),
        objective="masked_lm",
        max_steps=300,
    ),
    "gan": _Start("digits", _PIXELS.format(tensor="image"), rate="5.0e-4", betas=", betas: [0.5, 0.99]"),
    "autoencoder": _Start(
        "digits", "  columns: {features: image}\n" + _PIXELS.format(tensor="features"), rate="2.0e-3"
    ),
}


def job_text(name: str, family: str) -> str:
    """A commented job file of a family, on data that is bundled."""
    start = _STARTS[family]
    length, other = (
        ("epochs: 20", "max_steps")
        if start.max_steps is None
        else (f"max_steps: {start.max_steps}", "epochs")
    )
    return _TEMPLATE.format(
        name=name,
        family=family,
        objective=f"\nobjective: {{kind: {start.objective}}}\n" if start.objective else "",
        source=start.source,
        split=start.split,
        treatment=start.treatment,
        length=length,
        other=other,
        rate=start.rate,
        betas=start.betas,
    )


def init(
    path: Annotated[str, typer.Argument(help="The file to write.", metavar="JOB.yaml")] = "job.yaml",
    family: Annotated[
        str, typer.Option("--family", help="The architecture family: " + ", ".join(_STARTS) + ".")
    ] = "cnn",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a commented job file that runs as it is."""
    import re
    from pathlib import Path

    from orchestrator.errors import SpecError
    from orchestrator.registry import suggest_of

    if family not in _STARTS:
        raise SpecError(f"--family {family}: no such family{suggest_of(family, _STARTS)}")
    file = Path(path)
    if file.exists() and not force:
        raise SpecError(f"{path} is there already; --force overwrites it")
    name = re.sub(r"[^a-z0-9-]+", "-", file.stem.lower())[:40].strip("-") or "job"
    try:
        file.write_text(job_text(name, family), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path} can't be written: {error.strerror}") from None
    say(f"wrote {path}; next: trainwright plan {path}, trainwright run {path}")
