"""How training is distributed over workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.section import PathText, Section
from orchestrator.spec.numbers import Positive, PositiveFloat


class DdpStrategy(Section):
    """A full copy of the model on each worker; gradients are averaged."""

    kind: Literal["ddp"] = "ddp"
    """Distributed data parallel."""
    bucket_megabytes: PositiveFloat = 25
    """Size of the buckets in which gradients are averaged while the backward goes on."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are exchanged: ``bf16`` sends half the bytes, and changes the numbers."""


class FsdpStrategy(Section):
    """Parameters, gradients and moments sharded over the workers (torch FSDP2)."""

    kind: Literal["fsdp"] = "fsdp"
    """Fully sharded data parallel."""
    reshard_after_forward: bool = True
    """Free the gathered parameters of blocks after the forward: less memory, one more gather. Those outside of blocks stay."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are exchanged: ``bf16`` sends half the bytes, and changes the numbers."""
    offload: bool = False
    """Keep shards in CPU memory."""
    shard_group: Positive | Literal["node"] | None = None
    """Workers that share one copy of the model: a number that divides the workers, or ``node`` for as many as a node
    takes. Blocks are then gathered within a group, and gradients are added up between groups. Default: all workers."""


class ZeroOffload(Section):
    """Where ZeRO keeps what does not have to be on the device."""

    optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Optimizer state and fp32 master weights; ``nvme`` with stage 3 only."""
    parameters: Literal["none", "cpu", "nvme"] = "none"
    """Parameters (stage 3 only); ``nvme`` with 16-bit precision only."""
    nvme_path: PathText | None = None
    """Folder on a local NVMe disk, with ``nvme``."""


class ZeroStrategy(Section):
    """DeepSpeed ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054)."""

    kind: Literal["zero"] = "zero"
    """DeepSpeed ZeRO."""
    stage: Literal[1, 2, 3] = 2
    """What is partitioned: 1 optimizer state, 2 and gradients, 3 and parameters."""
    offload: ZeroOffload = ZeroOffload()
    """Where partitioned state is kept."""
    shard_group: Positive | Literal["node"] | None = None
    """Stage 3: workers that keep a second copy of the parameters among them, from which the backward gathers
    (hpZ, Wang et al. 2023, arXiv:2306.10209): a number that divides the workers, or ``node`` for as many as a node takes.
    Default: none keep one."""
    quantized_weights: bool = False
    """Stage 3 on GPUs: gather parameters in 8 bits (qwZ, same paper). Changes the numbers."""
    quantized_gradients: bool = False
    """Stage 3 on GPUs: exchange gradients in 4 bits (qgZ, same paper). Changes the numbers."""
    deepspeed: dict[str, Any] = {}
    """Raw DeepSpeed keys. One that contradicts the job file is an error."""

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> ZeroStrategy:
        if self.offload.parameters != "none" and self.stage != 3:
            raise ValueError(f"strategy.offload.parameters needs strategy.stage 3, not {self.stage}")
        if self.shard_group == 1:
            raise ValueError(
                "strategy.shard_group: 1 would be a whole copy on each worker; use strategy.stage 2, or 2 and more"
            )
        for field in ("shard_group", "quantized_weights", "quantized_gradients"):
            if getattr(self, field) and self.stage != 3:
                raise ValueError(f"strategy.{field} needs strategy.stage 3, not {self.stage}")
        if "nvme" in (self.offload.optimizer, self.offload.parameters) and not self.offload.nvme_path:
            raise ValueError("strategy.offload.nvme_path must be given with nvme")
        if self.offload.optimizer == "nvme" and self.stage != 3:
            raise ValueError(
                f"strategy.offload.optimizer: nvme needs strategy.stage 3, not {self.stage}; use cpu"
            )
        return self


class AutoStrategy(Section):
    """The fastest that fits the device, decided when the job is planned: see docs/strategies.md for the rule."""

    kind: Literal["auto"] = "auto"
    """Let the plan decide. It decides all of the strategy: no other field goes with it."""

    @model_validator(mode="before")
    @classmethod
    def _decides_alone(cls, given: Any) -> Any:
        more = sorted(set(given) - {"kind"}) if isinstance(given, dict) else []
        if more:
            raise ValueError(
                f"kind auto decides the whole strategy; take {more[0]} out, or write the kind that it goes with"
            )
        return given


StrategySection = Annotated[DdpStrategy | FsdpStrategy | ZeroStrategy, Field(discriminator="kind")]
"""A strategy that leaves nothing open."""
WrittenStrategy = Annotated[
    DdpStrategy | FsdpStrategy | ZeroStrategy | AutoStrategy,
    Field(discriminator="kind"),
]
