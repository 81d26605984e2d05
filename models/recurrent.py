"""Recurrent networks: Elman's RNN (1990), LSTM (Hochreiter and Schmidhuber 1997), GRU (Cho et al. 2014,
arXiv:1406.1078), as a language model (Zaremba et al. 2014, arXiv:1409.2329), a classifier, and a forecaster.

The recurrence is torch's own, which runs fused kernels where the device has them.

Shapes: B samples, T tokens or steps, E embedding width, W width of the output of the layers, V vocabulary,
C channels, O outputs, P past steps, H horizon, S series.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Modules
from orchestrator.models.configs import ObjectiveConfig, RecurrentConfig, RnnConfig
from orchestrator.models.language_head import LanguageHead, Scoring


class ToLengths(nn.RNNBase):
    """torch's layers, which may be told how long sequences are. Not by packing them: that asks the device for lengths."""

    def forward(self, x_BTE: Tensor, length_B: Tensor | None = None, state: Any = None) -> Any:
        """As torch's own, from a state where one is given; with lengths, the last layer's outputs (B, T, W), for which neither
        direction reads what fills a sequence up.
        """
        if not would_be_fp16(x_BTE):
            return self._run(x_BTE, length_B, state)
        # here, not around the call: FSDP gathers the weights, in its own format, on the way in
        with torch.autocast("cuda", enabled=False):
            return self._run(x_BTE.to(self.get_parameter("weight_ih_l0").dtype), length_B, state)

    def _run(self, x_BTE: Tensor, length_B: Tensor | None, state: Any) -> Any:
        return (
            super().forward(x_BTE, state)
            if length_B is None
            else outputs_within(self, x_BTE, length_B.long())
        )


def would_be_fp16(x: Tensor) -> bool:
    """Whether autocast is told bf16 and would compute in fp16, whose range needs a loss scale: on a GPU it does so with
    cuDNN's recurrence, whatever format it is told (ATen's autocast_mode, ``_cudnn_rnn``).
    """
    return (
        x.is_cuda and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16
    )


class Rnn(ToLengths, nn.RNN):  # type: ignore[misc]
    """Elman's."""


class Lstm(ToLengths, nn.LSTM):  # type: ignore[misc]
    """Long short-term memory."""


class Gru(ToLengths, nn.GRU):  # type: ignore[misc]
    """Gated recurrent units."""


LAYERS: dict[str, Callable[..., ToLengths]] = {"rnn": Rnn, "lstm": Lstm, "gru": Gru}


def recurrence(config: RecurrentConfig, in_width: int) -> ToLengths:
    """The layers, batch first."""
    options: dict[str, Any] = {"nonlinearity": config.activation} if isinstance(config, RnnConfig) else {}
    if config.projection is not None:
        options["proj_size"] = config.projection
    return LAYERS[config.family](
        in_width,
        config.width,
        num_layers=config.layers,
        batch_first=True,
        dropout=config.dropout if config.layers > 1 else 0.0,
        bidirectional=config.bidirectional,
        **options,
    )


def output_width(config: RecurrentConfig) -> int:
    """Width of one step's output."""
    return (config.projection or config.width) * (2 if config.bidirectional else 1)


def last_state(layers: ToLengths, x_BTE: Tensor, length_B: Tensor | None) -> Tensor:
    """The last layer's state (B, W) after each sequence's own last step, of both directions side by side.

    With lengths neither direction reads what fills the sequences up.
    """
    if length_B is None:
        _, state = layers(x_BTE)
        hidden: Tensor = state[0] if isinstance(state, tuple) else state
        return torch.cat([hidden[-2], hidden[-1]], dim=1) if layers.bidirectional else hidden[-1]
    if layers.bidirectional:
        outputs_BTW: Tensor = layers(x_BTE, length_B)
        half = outputs_BTW.shape[2] // 2
        forwards_BW = at_steps(outputs_BTW[:, :, :half], (length_B.long() - 1)[:, None])[:, 0]
        return torch.cat([forwards_BW, outputs_BTW[:, 0, half:]], dim=1)
    outputs_BTW, _ = layers(x_BTE)
    return at_steps(outputs_BTW, (length_B.long() - 1)[:, None])[:, 0]


def all_states(layers: ToLengths, x_BTE: Tensor, length_B: Tensor | None) -> Tensor:
    """The last layer's states (B, T, W) at every step, of both directions side by side, within each sequence's length."""
    if length_B is not None and layers.bidirectional:
        within_BTW: Tensor = layers(x_BTE, length_B)
        return within_BTW
    outputs_BTW: Tensor = layers(x_BTE)[0]
    return outputs_BTW


StatesRead = Callable[[ToLengths, Tensor, Tensor | None], Tensor]
"""``last_state`` or ``all_states``."""


def outputs_within(layers: nn.RNNBase, x_BTE: Tensor, length_B: Tensor) -> Tensor:
    """``all_states`` layer by layer: backwards, each sequence is turned around within its own length."""
    position_T = torch.arange(x_BTE.shape[1], device=x_BTE.device)
    turned_BT = torch.where(position_T < length_B[:, None], length_B[:, None] - 1 - position_T, position_T)
    for layer in range(layers.num_layers):
        if layer and layers.dropout:
            x_BTE = F.dropout(x_BTE, layers.dropout, layers.training)
        outputs = [one_direction(layers, x_BTE, f"_l{layer}")]
        if layers.bidirectional:
            backwards_BTW = one_direction(layers, at_steps(x_BTE, turned_BT), f"_l{layer}_reverse")
            outputs.append(at_steps(backwards_BTW, turned_BT))
        x_BTE = torch.cat(outputs, dim=2)
    return x_BTE


def at_steps(x_BTE: Tensor, step_BN: Tensor) -> Tensor:
    """Those of each sequence's steps -> (B, N, E)."""
    # not take_along_dim: tracing that fixes all sizes
    return x_BTE.gather(1, step_BN[:, :, None].expand(-1, -1, x_BTE.shape[2]))


def one_direction(layers: nn.RNNBase, x_BTE: Tensor, suffix: str) -> Tensor:
    """Outputs (B, T, W) of one layer in one direction, named as torch names its parameters."""
    names = [
        name
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        if hasattr(layers, name + suffix)
    ]
    weights = [getattr(layers, name + suffix) for name in names]
    start_1BW = x_BTE.new_zeros(1, x_BTE.shape[0], layers.proj_size or layers.hidden_size)
    if layers.mode == "LSTM":
        cell_1BW = x_BTE.new_zeros(1, x_BTE.shape[0], layers.hidden_size)
        output, *_ = torch.lstm(
            x_BTE, (start_1BW, cell_1BW), weights, layers.bias, 1, 0.0, False, False, True
        )
    else:
        operation = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[layers.mode]
        output, _ = operation(x_BTE, start_1BW, weights, layers.bias, 1, 0.0, False, False, True)
    return output


class LanguageModel(nn.Module):
    """Predicts each next token from those before it."""

    block_classes: tuple[type[nn.Module], ...] = (nn.RNNBase,)

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        assert config.vocabulary is not None
        self.embedding = nn.Embedding(config.vocabulary, config.embedding_width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = recurrence(config, config.embedding_width)
        self.head = LanguageHead(output_width(config), config.vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight

    def new_past(self) -> list[Any]:
        """The state after no token."""
        return [None]

    def forward(
        self, tokens_BT: Tensor, past: list[Any] | None = None, scoring: Scoring | None = None
    ) -> Any:
        """(B, T) -> logits (B, T, V), or with a scoring its scores.

        With a past: on from its state, which is replaced; logits after the last token (B, 1, V).
        """
        x_BTE = self.dropout(self.embedding(tokens_BT))
        x_BTW, state = self.layers(x_BTE, state=past[0] if past else None)
        if past:
            past[0], x_BTW = state, x_BTW[:, -1:]
        return self.head(self.dropout(x_BTW), scoring)


class TokensClassifier(nn.Module):
    """Outputs for a whole sequence of tokens, from the last state."""

    block_classes: tuple[type[nn.Module], ...] = (nn.RNNBase,)

    def __init__(self, config: RecurrentConfig, outputs: int) -> None:
        super().__init__()
        assert config.vocabulary is not None
        self.embedding = nn.Embedding(config.vocabulary, config.embedding_width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = recurrence(config, config.embedding_width)
        self.head = nn.Linear(output_width(config), outputs)

    def forward(self, tokens_BT: Tensor, length_B: Tensor | None = None) -> Tensor:
        """(B, T) and how many tokens of each are real -> outputs (B, O)."""
        x_BTE = self.dropout(self.embedding(tokens_BT))
        y_BO: Tensor = self.head(self.dropout(last_state(self.layers, x_BTE, length_B)))
        return y_BO


class SignalReader(nn.Module):
    """Outputs for a whole signal, from the last state, or for each of its steps."""

    block_classes: tuple[type[nn.Module], ...] = (nn.RNNBase,)

    def __init__(self, config: RecurrentConfig, outputs: int, states: StatesRead) -> None:
        super().__init__()
        assert config.channels is not None
        self.layers = recurrence(config, config.channels)
        self.states = states
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(output_width(config), outputs)

    def forward(self, signal_BCT: Tensor, length_B: Tensor | None = None) -> Tensor:
        """(B, C, T) and how many steps of each are its own -> outputs (B, O), or (B, T, O) from ``all_states``."""
        states = self.states(self.layers, signal_BCT.transpose(1, 2), length_B)
        outputs: Tensor = self.head(self.dropout(states))
        return outputs


class Forecaster(nn.Module):
    """All steps of the horizon at once, from the state after the past.

    Reads and forecasts differences from the last value, where ``last_value`` says so: a series whose level drifts
    then looks the same at any level (Zeng et al. 2022, arXiv:2205.13504, their NLinear). With a ``period`` it forecasts
    differences from the last season: what repeats need not be learned.
    """

    block_classes: tuple[type[nn.Module], ...] = (nn.RNNBase,)

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        assert config.series is not None
        assert config.horizon is not None
        self.from_last_value = config.last_value
        self.period = config.period
        self.horizon = config.horizon
        self.layers = recurrence(config, config.series)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(output_width(config), config.horizon * config.series)

    def forward(self, past_BPS: Tensor) -> Tensor:
        """(B, P, S) -> (B, H, S)."""
        start_BHS = self._start(past_BPS)
        if self.from_last_value:
            past_BPS = past_BPS - past_BPS[:, -1:]
        state_BW = last_state(self.layers, past_BPS, None)
        future_BHS: Tensor = self.head(self.dropout(state_BW)).unflatten(1, (self.horizon, -1))
        return future_BHS if start_BHS is None else future_BHS + start_BHS

    def _start(self, past_BPS: Tensor) -> Tensor | None:
        """What the forecast is the difference from: the last season (B, H, S), the last value (B, 1, S), or nothing."""
        if self.period is None:
            return past_BPS[:, -1:] if self.from_last_value else None
        season_BPS = past_BPS[:, -self.period :]
        times = -(-self.horizon // season_BPS.shape[1])
        return season_BPS.repeat(1, times, 1)[:, : self.horizon]


def build(config: RecurrentConfig, objective: ObjectiveConfig) -> Modules:
    """The network whose last layer is what the objective needs."""
    if objective.kind == "causal_lm":
        return {"model": LanguageModel(config)}
    if objective.kind == "forecasting":
        return {"model": Forecaster(config)}
    if objective.kind == "ctc":
        return {"model": SignalReader(config, config.outputs_for(objective), all_states)}
    if config.inputs == "signal":
        return {"model": SignalReader(config, config.outputs_for(objective), last_state)}
    return {"model": TokensClassifier(config, config.outputs_for(objective))}
