"""A decoder that writes a token at a time, from a source or from a text that it goes on from; what it keeps of those before, it
keeps here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
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


class Decoder(Protocol):
    """What is asked for the next token of each text."""

    def next_logits(self, text_BN: Tensor) -> Tensor:
        """(B, N) tokens, of which all but the last were given before -> (B, V) after them."""
        ...

    def choose(self, row_N: Tensor) -> None:
        """Go on with these rows."""
        ...


class GoingOn:
    """A causal language model, of whose texts it reads the last tokens that fit into its context.

    One that remembers (see ``Remembering``) reads each token once while the text fits. Beyond, each token moves all others by one
    place, so the window is read anew; so does a model that does not remember.

    Args:
        model: Takes tokens (B, at most context) to logits (B, as many, V).
        context: Tokens that the model reads at once.
        packed: Whether it also takes each token's document.
        chooses: Whether rows will be chosen.
    """

    def __init__(self, model: nn.Module, *, context: int, packed: bool, chooses: bool = False) -> None:
        self._model, self._context, self._packed = model, context, packed
        self._remembers = isinstance(model, Remembering) and (
            not chooses or isinstance(model.new_past(), Choosable)
        )
        self._past: Any = None
        self._read = 0

    def next_logits(self, text_BN: Tensor) -> Tensor:
        """See ``Decoder``."""
        begin = max(0, text_BN.shape[1] - self._context)
        if not self._remembers:
            window_BN = text_BN[:, begin:]
            more = (torch.zeros_like(window_BN),) if self._packed else ()
            last_BV: Tensor = self._model(window_BN, *more)[:, -1]
            return last_BV
        if self._past is None or begin:
            assert isinstance(self._model, Remembering)
            self._past, self._read = self._model.new_past(), begin
        last_BV = self._model(text_BN[:, self._read :], past=self._past)[:, -1]
        self._read = text_BN.shape[1]
        return last_BV

    def choose(self, row_N: Tensor) -> None:
        """See ``Decoder``."""
        if self._past is not None:
            self._past.choose(row_N)


class ReadingOn:
    """A decoder that writes from a source.

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
        """See ``Decoder``."""
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
        """See ``Decoder``."""
        self._source = {name: None if t is None else t[row_N] for name, t in self._source.items()}
        if self._past is not None:
            self._past.choose(row_N)
