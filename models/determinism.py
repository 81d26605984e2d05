"""Which operations of a model have no deterministic algorithm on a GPU: told from one forward on tensors without numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
from orchestrator.models.counting import fake_batch, lengths_of

WITHOUT: Mapping[str, str] = {
    "_adaptive_avg_pool2d": "AdaptiveAvgPool2d",
    "_adaptive_avg_pool3d": "AdaptiveAvgPool3d",
    "adaptive_max_pool2d": "AdaptiveMaxPool2d",
    "avg_pool3d": "AvgPool3d",
    "fractional_max_pool2d": "FractionalMaxPool2d",
    "fractional_max_pool3d": "FractionalMaxPool3d",
    "max_unpool2d": "MaxUnpool2d",
    "max_unpool3d": "MaxUnpool3d",
    "upsample_linear1d": "interpolate (linear)",
    "upsample_bilinear2d": "interpolate (bilinear)",
    "upsample_bicubic2d": "interpolate (bicubic)",
    "upsample_trilinear3d": "interpolate (trilinear)",
    "reflection_pad1d": "ReflectionPad1d",
    "reflection_pad2d": "ReflectionPad2d",
    "reflection_pad3d": "ReflectionPad3d",
    "nll_loss2d_forward": "NLLLoss over places",
    "_ctc_loss": "CTCLoss",
    "histc": "histc",
    "grid_sampler_2d": "grid_sample",
    "grid_sampler_3d": "grid_sample",
    "put": "put_",
}
"""Operation of torch's core -> what people call it: those that ``torch.use_deterministic_algorithms`` says it refuses."""


class _Seen(TorchDispatchMode):
    """Notes which of them are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WITHOUT:
            self.names.append(WITHOUT[name])
        elif name == "cumsum" and any(
            one.is_floating_point() for one in tree_leaves(args) if isinstance(one, Tensor)
        ):
            self.names.append("cumsum of fractions")
        return func(*args, **(kwargs or {}))


def first_without(config: FamilyConfig, objective_config: ObjectiveConfig) -> str | None:
    """The first operation of a step's forward that a GPU has no deterministic algorithm for; None where there is none."""
    with FakeTensorMode(), _Seen() as seen:
        modules = build_modules(config, objective_config)
        objective = build_objective(config, objective_config)
        specs = objective.inputs()
        batch = fake_batch(specs, lengths_of(config, specs), samples=2)
        for phase in objective.phases:
            objective.loss(phase, modules, batch)
    return seen.names[0] if seen.names else None
