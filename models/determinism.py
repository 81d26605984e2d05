"""Which operations of a model have no deterministic algorithm on a GPU: told from one forward on tensors without numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
from orchestrator.models.counting import fake_batch, lengths_of
from orchestrator.models.looked_at import OF_VALUES, faked

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
    "upsample_bicubic2d": "interpolate (bicubic)",
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
"""Operation of torch's core -> what people call it: those that ``torch.use_deterministic_algorithms`` says it refuses. Not
interpolation in two and three dimensions: with that switch on, ``torch.nn.functional`` computes these by another way on a GPU.
"""


def _is_of_fractions(args: Sequence[Any], _: str) -> bool:
    return any(one.is_floating_point() for one in args if isinstance(one, Tensor))


SOMETIMES: Mapping[str, tuple[str, Callable[[Sequence[Any], str], bool]]] = {
    "cumsum": ("cumsum of fractions", _is_of_fractions),
    "bincount": ("bincount with weights", lambda args, _: len(args) > 1 and args[1] is not None),
    "median": ("median with indices", lambda _, overload: overload == "dim"),
    "_embedding_bag": ("EmbeddingBag (max)", lambda args, _: len(args) > 4 and args[4] == 2),
    "scatter_reduce": ("scatter_reduce (prod)", lambda args, _: "prod" in args),
}
"""Those that have none with some arguments: what people call it then, and whether it is so, from arguments and overload."""


class _Seen(TorchDispatchMode):
    """Notes which of them are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in WITHOUT:
            self.names.append(WITHOUT[name])
        elif name in SOMETIMES:
            called, is_so = SOMETIMES[name]
            self.names += [called] if is_so(args, func._overloadname) else []
        return func(*args, **(kwargs or {}))


def first_without(config: FamilyConfig, objective_config: ObjectiveConfig) -> str | None:
    """The first operation of a step's forward that a GPU has no deterministic algorithm for; None where there is none.

    A forward that goes by the values of tensors is followed up to there: what comes after it torch itself refuses, at the
    first step.
    """
    real = None if config.builds_deferred else build_modules(config, objective_config)
    mode = FakeTensorMode()
    with mode, _Seen() as seen, contextlib.suppress(*OF_VALUES):
        modules = build_modules(config, objective_config) if real is None else faked(real, mode)
        objective = build_objective(config, objective_config)
        specs = objective.inputs()
        batch = fake_batch(specs, lengths_of(config, specs), samples=2)
        for phase in objective.phases:
            objective.loss(phase, modules, batch)
    return seen.names[0] if seen.names else None
