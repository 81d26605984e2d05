"""The next steps of some series.

Shapes: B samples, P past steps, H horizon, S series.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, weights_of
from orchestrator.models.configs import CustomConfig, ForecastingConfig, RecurrentConfig
from orchestrator.models.metrics import of_numbers
from orchestrator.models.objectives.common import OnePhase, forward


class Forecasting(OnePhase):
    """Squared or absolute error. Unit: one value of one series at one step."""

    def __init__(self, config: RecurrentConfig | CustomConfig, objective: ForecastingConfig) -> None:
        assert config.horizon is not None
        assert config.series is not None
        self._past = config.input_tensors(objective)
        self._future = TensorSpec((config.horizon, config.series), "float")
        self._values = config.horizon * config.series
        self._asked = objective.metrics
        self._absolute = objective.loss == "mae"
        self._by_name = config.inputs_by_name

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The past, and what came."""
        return {**self._past, "future": self._future}

    @property
    def units_per_sample(self) -> int | None:
        """Values of one horizon."""
        return self._values

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Values that are not padding."""
        return weights_of(batch, batch["future"]).sum() * self._values

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        return self._sums(self._forecast(modules, batch), batch)

    def _sums(self, forecast_BHS: Tensor, batch: Batch) -> Sums:
        future_BHS = batch["future"].float()
        error_BHS = forecast_BHS - future_BHS
        weight_B = weights_of(batch, future_BHS)
        squared = (error_BHS.square().sum((1, 2)) * weight_B).sum()
        absolute = (error_BHS.abs().sum((1, 2)) * weight_B).sum()
        count = weight_B.sum() * self._values
        metrics = {"mse": (squared.detach(), count), "mae": (absolute.detach(), count)}
        return Sums(absolute if self._absolute else squared, count, metrics)

    @torch.no_grad()
    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """The errors, and the statistics of what else is asked for: of each series over all steps of the horizon."""
        future_BHS = batch["future"].float()
        forecast_BHS = self._forecast(modules, batch)
        sums = self._sums(forecast_BHS, batch)
        weight_BHS = weights_of(batch, future_BHS)[:, None, None].expand_as(future_BHS)
        statistics = of_numbers(
            self._asked, forecast_BHS.flatten(0, 1), future_BHS.flatten(0, 1), weight_BHS.flatten(0, 1)
        )
        return {"loss": (sums.loss, sums.count), **sums.metrics, **statistics}

    def _forecast(self, modules: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        given = {name: batch.get(name) for name in self._past}
        return forward(modules["model"], given, by_name=self._by_name).float()

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """The first series of some samples: what came, and what was forecast."""
        past_BPS, future_BHS = batch["past"][:count].float(), batch["future"][:count].float()
        forecast_BHS = self._forecast(modules, {name: batch[name][:count] for name in self._past})
        actual_BT = torch.cat([past_BPS, future_BHS], dim=1)[:, :, 0]
        forecast_BT = torch.cat([past_BPS, forecast_BHS], dim=1)[:, :, 0]
        both_B2T = torch.stack([actual_BT, forecast_BT], dim=1).cpu().numpy()
        return [
            Sample(f"forecast_{index}", "series", both, ("actual", "forecast"))
            for index, both in enumerate(both_B2T)
        ]
