"""Draft: what a first job has of its own; and the text that all of them share."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_TEMPLATE = """\
# A trainwright job. `trainwright explain training.optimizer` says what a field means;
# `trainwright schema > job.schema.json` gives your editor completion and checks.
{found}name: {name}

model:
  family: {family}         # the architecture family; sizes and fields: trainwright explain model
{model}
{objective}
data:
  train:
{train}
{evaluation}{treatment}
training:
  {length:<24} # or {other}
  {batch:<24} # over all workers
  # micro_batch_size: 16   # samples of one forward; the rest is accumulated
  precision: fp32          # fp32 | bf16 | fp16
  optimizer: {{kind: adamw, learning_rate: {rate}, weight_decay: 0.01{betas}}}
  schedule: {{kind: cosine, warmup_steps: {warmup}}}
  seed: 0

strategy: {{kind: ddp}}      # ddp | fsdp | zero (stage 1, 2, 3)

scaling:
  workers: 2
  cpus_per_worker: 1
  gpus_per_worker: 0

checkpoint:
  keep: {{{keep}}}
"""
_WIDTH = 110


@dataclass(frozen=True)
class Length:
    """How long is trained."""

    epochs: int = 20
    max_steps: int | None = None
    """Instead of epochs, where one is long."""
    batch: int = 64
    warmup: int = 20


@dataclass(frozen=True)
class Draft:
    """What a first job has of its own."""

    family: str
    train: Sequence[str]
    """Lines under ``data.train``."""
    treatment: Sequence[str]
    """Lines under ``data``: columns, what is prepared and transformed."""
    evaluation: str = "{kind: split, fraction: 0.2}"
    """``data.eval``; empty where there is too little data for one."""
    objective: str = ""
    model: Sequence[str] = ("size: debug",)
    """Lines under ``model``, after the family."""
    found: Sequence[str] = ()
    """What was found in the data and guessed from it, a sentence each, for the head of the file."""
    length: Length = Length()
    rate: str = "3.0e-3"
    betas: str = ""

    def text(self, name: str) -> str:
        """The job file."""
        length, other = (
            (f"epochs: {self.length.epochs}", "max_steps")
            if self.length.max_steps is None
            else (f"max_steps: {self.length.max_steps}", "epochs")
        )
        return _TEMPLATE.format(
            found="".join(f"{line}\n" for line in _comment(self.found)),
            name=name,
            family=self.family,
            model="\n".join(f"  {line}" for line in self.model),
            objective=f"\nobjective: {{kind: {self.objective}}}\n" if self.objective else "",
            train="\n".join(f"    {line}" for line in self.train),
            evaluation=f"  eval: {self.evaluation}\n" if self.evaluation else "",
            treatment="".join(f"  {line}\n" for line in self.treatment),
            length=length,
            other=other,
            batch=f"global_batch_size: {self.length.batch}",
            rate=self.rate,
            betas=self.betas,
            warmup=self.length.warmup,
            keep="last: 2, best: 1, metric: val/loss, mode: min" if self.evaluation else "last: 2",
        )


def _comment(sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    import textwrap

    shown = ["#", "# What was found in the data, and what was guessed from it:"]
    for sentence in sentences:
        plain = " ".join(sentence.split())
        shown += textwrap.wrap(
            plain,
            _WIDTH,
            initial_indent="#  - ",
            subsequent_indent="#    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return shown


def scalar(text: str) -> str:
    """A text as YAML takes it, in quotes where it needs them."""
    return text if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) and not _is_word(text) else json.dumps(text)


def _is_word(text: str) -> bool:
    """Whether YAML, of one version or another, takes it for something else than text."""
    return text.lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf")


def flow_list(items: Sequence[str], indent: int) -> str:
    """A YAML list of texts, on as many lines as it takes."""
    import textwrap

    whole = ", ".join(scalar(item) for item in items)
    if len(whole) + indent < _WIDTH - 20:
        return f"[{whole}]"
    lines: list[str] = []
    line = ""
    for item in items:
        piece = scalar(item) + ", "
        if line and len(line) + len(piece) > _WIDTH - indent - 4:
            lines, line = [*lines, line.rstrip()], ""
        line += piece
    return "[\n" + textwrap.indent("\n".join([*lines, line.rstrip(", ")]), " " * (indent + 2)) + "]"


def training_length(rows: int, steps: int = 400) -> Length:
    """Batch, epochs and warm-up for so many training rows: about so many steps, and no batch larger than the data."""
    batch = 64
    while batch > 2 and batch * 4 > rows:
        batch //= 2
    per_epoch = max(1, -(-rows // batch))
    epochs = min(steps // 8, max(2, -(-steps // per_epoch)))
    return Length(epochs=epochs, batch=batch, warmup=min(20, per_epoch * epochs // 10))
