"""A family's forward as a graph that other tools run: ``torch.export`` and ONNX, with free batch and length.

A graph is compared with the module at two batch sizes and, where its input has a length, at three lengths each.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch._decomp.decompositions  # registers the kernels that are replaced below
from torch import Tensor, nn

from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models.base import Parted
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
from orchestrator.models.tensors import TensorSpec

LENGTH_AXES = {"tokens": 1, "segment": 1, "document": 1, "past": 1, "signal": 2, "memory": 1, "target": 1}
"""Inputs whose samples may have any length, and the axis of it."""
_OWN_LENGTH = "target"
"""The one whose length is not that of the others."""
_BATCHES = (2, 3)
"""Samples that a graph is tried with; it is traced with the second."""
_UNSAID_SIZE = 16
"""Length of a signal, or side of an image, of which nothing is said."""
_TOLERANCE = 1e-4

Example = Mapping[str, Tensor]


class Forward(nn.Module):
    """One tensor out, whatever the family returns beside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        """The module's own inputs -> its first output."""
        output = self.module(*inputs)
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first


@dataclass(frozen=True)
class Inputs:
    """What a graph takes."""

    specs: Mapping[str, TensorSpec]
    """The tensors, in the order of the forward's arguments."""
    lengths: tuple[int, ...]
    """Lengths to try, the one to trace with last; empty where no input has a length."""
    longest: int | None
    """Longest that the model reads; None where any length is read."""
    counts: Mapping[str, Any]
    """Of inputs whose columns differ in how many values they have: those numbers."""
    sides: Mapping[str, int]
    """Of each input: what a size that its spec leaves open is taken to be."""

    def example(self, batch: int, length: int | None) -> dict[str, Tensor]:
        """Random inputs of this many samples and, where there is one, this length."""
        generator = torch.Generator().manual_seed(batch)
        made = {}
        for name, spec in self.specs.items():
            shape = [batch, *(self.sides[name] if size is None else size for size in spec.shape)]
            if name in LENGTH_AXES:
                assert length is not None
                shape[LENGTH_AXES[name]] = self._own_length(length) if name == _OWN_LENGTH else length
            if spec.kind == "float":
                made[name] = torch.randn(shape, generator=generator)
            elif name == "length":
                made[name] = torch.randint(1, (length or 1) + 1, shape, generator=generator)
            elif name == "document":  # numbers that grow from left to right
                made[name] = torch.randint(0, 2, shape, generator=generator).cumsum(1)
            else:
                made[name] = torch.randint(0, spec.below or 2, shape, generator=generator)
            if name in self.counts:
                made[name] %= torch.tensor(self.counts[name])
        return made

    def _own_length(self, length: int) -> int:
        """Of a target, beside a source of this length: another one where there is, and each one that is tried another."""
        longest = self.specs[_OWN_LENGTH].longest
        if longest is None:
            return length + 1
        if length != self.lengths[-1]:
            return longest - (length - 1) % longest
        # traced with: a length of 1 would become one that is fixed
        halves = [one for one in ((longest + 1) // 2, (longest + 3) // 2) if 1 < one <= longest]
        return next((one for one in halves if one != length), longest)

    def examples(self) -> list[dict[str, Tensor]]:
        """All that a graph is tried with; it is traced with the last."""
        return [self.example(batch, length) for batch in _BATCHES for length in self.lengths or (None,)]

    def free_sizes(self) -> tuple[dict[int, Any], ...]:
        """Of each input, the axes that the graph leaves open."""
        batch = torch.export.Dim("batch", min=1, max=1 << 20)
        # a signal's least length follows from the model's strides, and torch finds it
        length: Any = torch.export.Dim.DYNAMIC
        if self.longest is not None:
            length = torch.export.Dim("length", min=1, max=self.longest)
        own: Any = torch.export.Dim.DYNAMIC
        if _OWN_LENGTH in self.specs and (longest := self.specs[_OWN_LENGTH].longest) is not None:
            own = torch.export.Dim("target_length", min=1, max=longest)
        lengths = {name: own if name == _OWN_LENGTH else length for name in LENGTH_AXES}
        return tuple(
            {0: batch, LENGTH_AXES[name]: lengths[name]} if name in LENGTH_AXES else {0: batch}
            for name in self.specs
        )


def graphs_of(
    module: nn.Module, config: FamilyConfig, objective: ObjectiveConfig, given: Collection[str]
) -> dict[str, tuple[Forward, Inputs]]:
    """What is exported by its name: the module, or its parts; and what each takes.

    Args:
        given: see ``inputs_of``.
    """
    specs = config.export_parts(objective)
    parts = {"model": module} if "model" in specs else cast(Parted, module).parts()
    return {
        name: (Forward(part).eval(), inputs_of(config, specs[name], given)) for name, part in parts.items()
    }


def inputs_of(config: FamilyConfig, tensors: Mapping[str, TensorSpec], given: Collection[str]) -> Inputs:
    """What the graph of a forward takes.

    Args:
        tensors: of the forward, in the order of its arguments.
        given: optional inputs that the training data had. ``length`` is always taken where the model reads it.

    """
    specs = {
        name: spec for name, spec in tensors.items() if not spec.optional or name == "length" or name in given
    }
    sides = {name: config.open_size(name) or _UNSAID_SIZE for name in specs}
    counts = getattr(config, "cardinalities", None)
    longest = config.max_tokens if {"tokens", "memory"} & set(specs) else None
    return Inputs(
        specs,
        _lengths(config, specs, longest),
        longest,
        {"categories": counts} if counts and "categories" in specs else {},
        sides,
    )


def _lengths(config: FamilyConfig, specs: Mapping[str, TensorSpec], longest: int | None) -> tuple[int, ...]:
    if longest is not None:
        return tuple(
            sorted({1, longest, (longest + 1) // 2}, key=lambda length: (length in (1, longest), length))
        )[::-1]
    timed = next((name for name in specs if name in LENGTH_AXES), None)
    if timed is None:
        return ()
    own = specs[timed].shape[LENGTH_AXES[timed] - 1] or config.open_size(timed) or _UNSAID_SIZE
    return (2 * own, own + 3, own)


def to_torch(module: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write ``path`` for ``torch.export.load``. Raises CheckpointError where it does not compute the same."""
    with _quiet(), _recurrence_of_any_length():
        torch.export.save(_program(module, inputs), path)
    again = torch.export.load(path).module()
    _compare(module, inputs, lambda example: again(*example.values()), path.name)


def to_onnx(module: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write ``path`` as ONNX. Raises CheckpointError where it does not compute the same, SpecError without onnx."""
    try:
        import onnx
        import onnxscript  # noqa: F401
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise SpecError("export: onnx needs the extra: pip install trainwright[onnx]") from error

    from orchestrator.checkpoint.onnx_recurrence import TRANSLATIONS

    with _quiet(), _recurrence_of_any_length():
        program = torch.onnx.export(
            _program(module, inputs),
            input_names=list(inputs.specs),
            output_names=["output"],
            dynamo=True,
            verbose=False,
            custom_translation_table=TRANSLATIONS,
        )
    assert program is not None
    program.save(str(path))
    onnx.checker.check_model(str(path))
    evaluator = ReferenceEvaluator(str(path))

    def run(example: Example) -> Tensor:
        (got,) = evaluator.run(None, {name: tensor.numpy() for name, tensor in example.items()})
        return torch.as_tensor(got)

    _compare(module, inputs, run, path.name)


def _program(module: nn.Module, inputs: Inputs) -> Any:
    example = inputs.examples()[-1]
    with torch.no_grad():
        return torch.export.export(
            module, tuple(example.values()), dynamic_shapes=(inputs.free_sizes(),), strict=False
        )


def _compare(module: nn.Module, inputs: Inputs, run: Any, what: str) -> None:
    with torch.no_grad():
        for example in inputs.examples():
            expected, got = module(*example.values()), run(example)
            difference = float((expected.float() - got.float()).abs().max())
            if got.shape != expected.shape or not difference <= _TOLERANCE * max(
                1.0, float(expected.abs().max())
            ):
                sizes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in example.items())
                raise CheckpointError(
                    f"export: {what} gives outputs that differ by {difference:.2g} from the model's, for {sizes}"
                )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch says to those who mend its exporters: nobody who exports can do anything about it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _recurrence_of_any_length() -> Iterator[None]:
    """Have torch trace its recurrent operations by the shapes of their results alone.

    It finds these by running all steps one by one, which fixes how many there are.
    """
    table = torch._decomp.decomposition_table
    operations = [getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]
    before = [(dict(operation.py_kernels), table[operation]) for operation in operations]
    for operation, (kernels, _) in zip(operations, before, strict=True):
        _set_kernels(operation, dict.fromkeys(kernels, _recurrent_shapes))
        table[operation] = _recurrent_shapes
    try:
        yield
    finally:
        for operation, (kernels, decomposition) in zip(operations, before, strict=True):
            _set_kernels(operation, kernels)
            table[operation] = decomposition


def _set_kernels(operation: Any, kernels: Mapping[Any, Any]) -> None:
    operation.py_kernels.clear()
    operation.py_kernels.update(kernels)
    operation._dispatch_cache.clear()


def _recurrent_shapes(
    x: Tensor,
    start: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Empty outputs and last states, by ATen's signature of ``lstm``, ``gru`` and ``rnn``."""
    starts = [start] if isinstance(start, Tensor) else list(start)
    width = starts[0].shape[2] * (2 if bidirectional else 1)
    return (x.new_empty(x.shape[0], x.shape[1], width), *(torch.empty_like(one) for one in starts))
