"""A trained model that answers rows as a data source has them: what MLflow's model and ``predict`` both are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from orchestrator.data import Inputs
from orchestrator.data.preparations.text_columns import strings_of
from orchestrator.errors import DataError
from orchestrator.models.configs import (
    CausalLmConfig,
    FamilyConfig,
    ObjectiveConfig,
    SequenceToSequenceConfig,
)
from orchestrator.models.objectives.common import forward
from orchestrator.models.objectives.generation import continued, likeliest_continued, written
from orchestrator.spec.preparations import Conversations, Windows
from orchestrator.telemetry.answers import TOKENS, WRITERS, answer, forecast_table, reconstruction_errors

_TEXTS_AT_ONCE = 32


class Trained:
    """Modules, and how rows become what they take."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        config: FamilyConfig,
        objective: ObjectiveConfig,
        inputs: Inputs,
        device: str = "cpu",
    ) -> None:
        """Puts the modules into evaluation mode, and onto the device."""
        for module in modules.values():
            module.eval().to(device)
        self._device = torch.device(device)
        # of a GAN, which answers no rows, the averaged generator
        self._module = modules["model"] if "model" in modules else modules["generator_ema"]
        self.inputs, self.kind = inputs, objective.kind
        self.names = tuple(config.export_tensors(objective))
        self._context = config.max_tokens or 0
        self._objective = objective
        self._longest_target: int = getattr(config, "target_context", None) or TOKENS
        self._by_name = config.inputs_by_name
        self._packed = bool(getattr(objective, "packed", False))

    @property
    def writes(self) -> bool:
        """Whether its answer to a text is a text: how that goes on, or what is made of it."""
        return self.kind in WRITERS and self.inputs.text_column is not None

    def answers(self, rows: pa.Table, where: Callable[[int], str] | None = None) -> Any:
        """What it says of each row, see ``telemetry.answers``. Of series, the rows that follow.

        Args:
            rows: with the columns that are read, and any others.
            where: (row) -> words that say where it is, for messages.

        Raises:
            DataError: a column is missing or unlike the training data's, or a value was never seen.
        """
        if self.inputs.series:
            return self.forecasts(rows.to_pandas())
        return self.meaning(self.inputs.tensors(rows, where))

    def meaning(self, tensors: Mapping[str, np.ndarray]) -> Any:
        """The same of input tensors."""
        outputs = self.outputs(tensors)
        if self.kind == "reconstruction":
            return reconstruction_errors(tensors[self.names[0]], outputs)
        return answer(self.kind, outputs, self.inputs.classes, tensors.get("length"))

    def outputs(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """The model's outputs (rows, ...) of input tensors by name, as the model itself takes them."""
        given = {name: self._tensor(arrays[name]) if name in arrays else None for name in self.names}
        with torch.no_grad():
            output = forward(self._module, given, by_name=self._by_name)
        first = output[0] if isinstance(output, tuple) else output
        numbers: np.ndarray = first.float().cpu().numpy()
        return numbers

    def forecasts(self, frame: Any) -> Any:
        """The rows that follow those of a DataFrame, as one; of each group, where it has several."""
        import pandas as pd

        prepare = self.inputs.prepare
        assert isinstance(prepare, Windows)
        group = prepare.group if prepare.group in frame else None
        parts = [(None, frame)] if group is None else list(frame.groupby(group, sort=False))
        tables = []
        for name, part in parts:
            rows = self.inputs.forecast(self.outputs(self.inputs.tensors(_table(part))))
            time, learned = self.inputs.learned["time"], self.inputs.learned
            past = part[time].iloc[-prepare.past :] if time in part else None
            table = forecast_table(rows, learned["series"], time, past, learned["step"])
            if group is not None:
                table.insert(0, group, name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def continuations(
        self,
        texts: Sequence[Any],
        tokens: int = TOKENS,
        seed: int = 0,
        first: int = 0,
        *,
        temperature: float = 1.0,
        where: Callable[[int], str] | None = None,
    ) -> list[str]:
        """How texts go on, what is answered to conversations, or what a model with an encoder and a decoder makes of texts.

        Args:
            texts: each by itself; of conversations see ``Inputs.prompt``.
            tokens: written of each at most.
            seed: of what is drawn; the answer to a text depends on it and on the text's number. A decoder takes the likeliest
                token each time, and a beam search draws none.
            first: number of the first text.
            temperature: at which it draws; 0: the likeliest token each time.
            where: (place in texts) -> words that say where it is, for messages.

        Raises:
            DataError: a text can't be read, or is no conversation.
        """
        if self.kind == "sequence_to_sequence":
            return list(self._made_of(texts, min(tokens, self._longest_target)))
        texts_written = []
        for number, text in enumerate(texts, first):  # one by one, since their prompts differ in length
            try:
                prompt = self._tensor(self.inputs.prompt(text))[None]
            except DataError as error:
                raise DataError(f"{where(number - first)}: {error}" if where else str(error)) from None
            whole = self._gone_on(prompt, tokens, seed + number, temperature)
            texts_written.append(self.inputs.written(whole[0, prompt.shape[1] :].tolist()))
        return texts_written

    def _gone_on(self, prompt_1T: torch.Tensor, tokens: int, seed: int, temperature: float) -> torch.Tensor:
        """The prompt and what is drawn after it, or found by a beam search."""
        objective = self._objective
        assert isinstance(objective, CausalLmConfig)
        if objective.beams > 1:
            return likeliest_continued(
                self._module,
                prompt_1T,
                tokens=tokens,
                ends=self.inputs.ends,
                context=self._context,
                packed=self._packed,
                beams=objective.beams,
                length_penalty=objective.length_penalty,
                until_ended=True,
            )
        drawn = torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed))
        chance = drawn.to(self._device)
        return continued(
            self._module,
            prompt_1T,
            chance,
            context=self._context,
            packed=self._packed,
            temperature=temperature,
        )

    def _made_of(self, texts: Sequence[str], tokens: int) -> Iterator[str]:
        objective = self._objective
        assert isinstance(objective, SequenceToSequenceConfig)
        assert objective.start_token is not None and objective.end_token is not None
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[begin : begin + _TEXTS_AT_ONCE]
            read = self.inputs.read(some, [f"text {begin + row}" for row in range(len(some))].__getitem__)
            longest = int(read["length"].max())
            given = {
                "tokens": self._tensor(read["tokens"][:, :longest]),
                "length": self._tensor(read["length"]),
            }
            written_BN = written(
                self._module,
                {name: given.get(name) for name in self.names if name != "target"},
                tokens=tokens,
                start=objective.start_token,
                end=objective.end_token,
                by_name=self._by_name,
                until_ended=True,
                beams=objective.beams,
                length_penalty=objective.length_penalty,
            )
            yield from (self.inputs.written(text.tolist()) for text in written_BN)

    def texts(self, rows: pa.Table) -> list[Any]:
        """The texts, or the conversations, that it reads of rows. Raises DataError."""
        assert self.inputs.text_column is not None
        if isinstance(self.inputs.prepare, Conversations):
            return rows[self.inputs.text_column].to_pylist()
        return strings_of(rows, self.inputs.text_column)

    def _tensor(self, values: Any) -> torch.Tensor:
        """float32 or int64, as the families take them."""
        array = np.asarray(values)
        numbers = torch.as_tensor(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
        return numbers.to(self._device)


def _table(frame: Any) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)
