"""torch's recurrent operations in ONNX's own, which torch's exporter has no translation for. Needs onnxscript.

Gates lie in another order: torch has input, forget, cell, output and reset, update, new; ONNX has input, output, forget,
cell and update, reset, hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18  # lists of numbers become constants, which its types don't say

_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Places of ONNX's gates among torch's."""


def _layers(
    kind: str,
    options: dict[str, Any],
    x: Any,
    starts: Sequence[Any],
    weights: Sequence[Any],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    """Outputs, and the last states of each kind. A direction of a layer is one operation."""
    directions = ("forward", "reverse") if bidirectional else ("forward",)
    each = 4 if has_biases else 2
    if len(weights) != layers * len(directions) * each:
        raise NotImplementedError("ONNX has no LSTM with a projection")
    x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    states: list[list[Any]] = [[] for _ in starts]
    place = 0
    for _ in range(layers):
        outputs = []
        for direction in directions:
            own = weights[each * place : each * (place + 1)]
            first = [op.Slice(start, [place], [place + 1], [0]) for start in starts]
            y, *last = _one(kind, options, x, own, first, direction)
            outputs.append(op.Squeeze(y, [1]))
            for kept, state in zip(states, last, strict=True):
                kept.append(state)
            place += 1
        x = op.Concat(*outputs, axis=2) if bidirectional else outputs[0]
    x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    return (x, *(op.Concat(*kept, axis=0) for kept in states))


def _one(
    kind: str, options: dict[str, Any], x: Any, weights: Sequence[Any], first: Sequence[Any], direction: str
) -> tuple[Any, ...]:
    """One layer in one direction: outputs (T, 1, B, W), and its last states (1, B, W)."""
    hidden = int(weights[1].shape[1])
    w, r, *biases = (_reordered(kind, weight, hidden) for weight in weights)
    b = op.Unsqueeze(op.Concat(*biases, axis=0), [0]) if biases else None
    operation: Callable[..., Any] = getattr(op, kind)
    result: tuple[Any, ...] = operation(
        x,
        op.Unsqueeze(w, [0]),
        op.Unsqueeze(r, [0]),
        b,
        None,
        *first,
        hidden_size=hidden,
        direction=direction,
        **options,
    )
    return result


def _reordered(kind: str, weight: Any, hidden: int) -> Any:
    parts = [op.Slice(weight, [hidden * gate], [hidden * (gate + 1)], [0]) for gate in _ORDERS[kind]]
    return op.Concat(*parts, axis=0) if len(parts) > 1 else weight


def _lstm(
    x: Any,
    starts: Sequence[Any],
    weights: Sequence[Any],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    return _layers("LSTM", {}, x, starts, weights, has_biases, layers, bidirectional, batch_first)


def _of_one_state(kind: str, options: dict[str, Any]) -> Callable[..., tuple[Any, ...]]:
    def translated(
        x: Any,
        start: Any,
        weights: Sequence[Any],
        has_biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Any, ...]:
        return _layers(kind, options, x, [start], weights, has_biases, layers, bidirectional, batch_first)

    return translated


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.lstm.input: _lstm,
    torch.ops.aten.gru.input: _of_one_state("GRU", {"linear_before_reset": 1}),
    torch.ops.aten.rnn_tanh.input: _of_one_state("RNN", {"activations": ["Tanh"]}),
    torch.ops.aten.rnn_relu.input: _of_one_state("RNN", {"activations": ["Relu"]}),
}
"""For ``torch.onnx.export(custom_translation_table=...)``."""
