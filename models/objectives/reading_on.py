"""A decoder that writes from a source, a token at a time; what it keeps of those before, it keeps here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Remembering(Protocol):
    """A model that can read each token once: its forward takes ``past``, adds the tokens to it, and gives the logits (B, 1, V)
    after the last of them. A decoder's past also has what its encoder made of the source, from the first call on.
    """

    def new_past(self) -> Any:
        """What it keeps of tokens; of none yet."""
        ...


@runtime_checkable
class Choosable(Protocol):
    """A past that several texts can go on from; a model whose past is none reads all tokens anew where there are beams."""

    def choose(self, row_N: Tensor) -> None:
        """Keep these rows of all that it has, in this order; a row may come several times, or not at all."""
        ...


class ReadingOn:
    """What is asked for the next token of each text.

    Args:
        model: Takes what the source says and ``target`` (B, n), the tokens so far behind the start token, to logits (B, n, V).
        source: The model's other inputs by name, in the order of its forward's arguments.
        by_name: Whether the model takes its inputs by name.
        chooses: Whether rows will be chosen.
    """

    def __init__(
        self, model: nn.Module, source: Mapping[str, Tensor | None], *, by_name: bool, chooses: bool = False
    ) -> None:
        self._model, self._source, self._by_name = model, dict(source), by_name
        self._past = model.new_past() if isinstance(model, Remembering) else None
        if chooses and not isinstance(self._past, Choosable):
            self._past = None
        self._read = 0
        given = next(tensor for tensor in source.values() if tensor is not None)
        self.rows, self.device = len(given), given.device

    def next_logits(self, text_BN: Tensor) -> Tensor:
        """(B, N) tokens, of which all but the last were given before -> (B, V) after them."""
        step = {**self._source, "target": text_BN if self._past is None else text_BN[:, self._read :]}
        self._read = text_BN.shape[1]
        more = {} if self._past is None else {"past": self._past}
        if self._by_name:
            logits_BNV = self._model(**{name: t for name, t in step.items() if t is not None}, **more)
        else:
            logits_BNV = self._model(*step.values(), **more)
        last_BV: Tensor = logits_BNV[:, -1]
        return last_BV

    def choose(self, row_N: Tensor) -> None:
        """Go on with these rows."""
        self._source = {name: None if t is None else t[row_N] for name, t in self._source.items()}
        if self._past is not None:
            self._past.choose(row_N)
