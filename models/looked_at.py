"""What only a person's own code says of their model and objective, asked when the job is planned.

``look`` asks before the data is known: which tensors ``forward`` takes, which phases there are. ``try_out`` runs one step
on fake tensors, with the data's shapes, so that what does not fit is said before anything starts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from orchestrator.errors import SpecError
from orchestrator.models import build_modules, build_objective, build_with_values
from orchestrator.models.adapters import add_adapters, refuse_unused
from orchestrator.models.base import Modules, Objective, parameter_names
from orchestrator.models.configs import (
    CustomConfig,
    CustomObjectiveConfig,
    InputTensor,
    LoraSpec,
    ObjectiveConfig,
)
from orchestrator.models.counting import (
    count_phases,
    counted_beside,
    explained_overflow,
    fake_batch,
    lengths_of,
    without_onednn,
)
from orchestrator.models.custom import blocks_in, check_parameters, statistics_of_shares
from orchestrator.models.deferred import FirstValues
from orchestrator.models.sizes import Counts
from orchestrator.own_code import described

_COMPARED_ELEMENTS = 5_000_000
"""Of two models that a factory makes."""
_GIVEN = {
    "causal_lm": (("tokens",), ("document",)),
    "sequence_to_sequence": (("tokens", "target"), ("length",)),
}
"""Of objectives that change what the data has: the tensors that forward is given always, and those that some data has."""
_SAMPLES = 2
"""Of the batch that is tried: more than one, or normalization over the batch would refuse it."""
OF_VALUES = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    GuardOnDataDependentSymNode,
)
"""What a forward raises that goes by the values of tensors, which fake ones have not."""


@dataclass(frozen=True)
class Look:
    """Sections with what the code says, and sentences for the plan."""

    model: CustomConfig
    objective: ObjectiveConfig
    notes: tuple[str, ...]
    averages: tuple[str, ...]
    """Modules that are averages of others, which the objective moves."""
    over_shares: tuple[str, ...]
    """Layers whose result depends on how the batch is split among workers."""


@dataclass(frozen=True)
class Trial:
    """What a step on fake tensors tells."""

    counts: Counts
    objective: ObjectiveConfig
    notes: tuple[str, ...]


def look(model: CustomConfig, objective: ObjectiveConfig, seed: int) -> Look:
    """Build the model, twice, and ask it.

    Raises:
        SpecError: a factory can't be imported, fails, returns something else or not the same each time; the objective
            needs other modules; a parameter can't be sharded.
    """
    if objective.kind not in model.OBJECTIVES:
        raise SpecError(
            f"objective.kind: family {model.family} can't be trained with {objective.kind}; it can with"
            f" {', '.join(model.OBJECTIVES)}"
        )
    model, modules, notes = _built(model, objective, seed)
    check_parameters(modules)
    if isinstance(objective, CustomObjectiveConfig):
        objective = _asked(objective, build_objective(model, objective), modules)
        model, unanswered = _with_asked_inputs(model, objective, modules)
        notes += unanswered
    else:
        model = _with_inputs(model, objective, modules)
    blocks = {name: blocks_in(module) for name, module in modules.items()}
    found = tuple(dict.fromkeys(kind for counter in blocks.values() for kind in counter))
    shares = tuple(statistics_of_shares(modules))
    notes += (_blocks_note(model, blocks), *_share_notes(shares))
    averages = tuple(name for name, module in modules.items() if _is_average(module))
    return Look(model.model_copy(update={"blocks": found}), objective, notes, averages, shares)


def _built(
    model: CustomConfig, objective: ObjectiveConfig, seed: int
) -> tuple[CustomConfig, Modules, tuple[str, ...]]:
    """The model without memory where its factory allows it, else with; and what is to be said of that."""
    if model.deferred is not False:
        deferred = model.model_copy(update={"deferred": True})
        try:
            return deferred, _same_twice(deferred, objective, seed), ()
        except _NotTheSameError as error:
            raise SpecError(str(error)) from None
        except Exception as error:  # whatever a person's code does that tensors without numbers can't
            if model.deferred:
                raise
            cause = error.__cause__ or error
    whole = model.model_copy(update={"deferred": False})
    try:
        modules = _same_twice(whole, objective, seed)
    except _NotTheSameError as error:
        raise SpecError(str(error)) from None
    if model.deferred is False:
        return whole, modules, ()
    note = (
        f"model.deferred: false, since {model.factory} can't be built without memory ({described(cause)}):"
        " each worker builds the whole model first"
    )
    return whole, modules, (note,)


class _NotTheSameError(Exception):
    """A factory returned two different models."""


def _same_twice(model: CustomConfig, objective: ObjectiveConfig, seed: int) -> Modules:
    """The model, after it was built a second time and was the same."""
    (one, first), (other, second) = (build_with_values(model, objective, seed) for _ in range(2))
    check_parameters(one)
    pairs = list(zip(_tensors(one), _tensors(other), strict=False))
    same = len(pairs) == len(list(_tensors(one))) == len(list(_tensors(other)))
    left = _COMPARED_ELEMENTS
    for (name, a), (other_name, b) in pairs:
        same = same and name == other_name and a.shape == b.shape and a.dtype == b.dtype
        if same and left >= a.numel():
            left -= a.numel()
            same = torch.equal(_value(a, first), _value(b, second))
        if not same:
            raise _NotTheSameError(
                f"model.factory: {model.factory} returns another model each time ({name} differs), so workers"
                " would not train the same; draw random numbers from torch alone, and go by nothing but the config"
            )
    if not same:
        raise _NotTheSameError(f"model.factory: {model.factory} returns another model each time")
    return one


def _value(tensor: Tensor, values: FirstValues | None) -> Tensor:
    return tensor.detach() if values is None else values.of(tensor)


def _tensors(modules: Modules) -> Iterator[tuple[str, Tensor]]:
    for name, module in modules.items():
        for path, tensor in (*module.named_parameters(), *module.named_buffers()):
            yield (path if len(modules) == 1 else f"{name}/{path}"), tensor


def _is_average(module: nn.Module) -> bool:
    return getattr(module, "average_of", None) is not None


def _asked(objective: CustomObjectiveConfig, made: Objective, modules: Modules) -> CustomObjectiveConfig:
    trained = {}
    for phase in made.phases:
        trained[made.trains(phase)] = phase
        if made.trains(phase) not in modules:
            raise SpecError(
                f"objective.factory: phase {phase!r} of {objective.factory} trains {made.trains(phase)!r}, but"
                f" model.factory returns {', '.join(modules)}"
            )
    for name, module in modules.items():
        if name not in trained and not _is_average(module):
            raise SpecError(
                f"objective.factory: no phase of {objective.factory} trains module {name!r}; a module that is no"
                " other's average (average_of) must be trained"
            )
    inputs = {
        name: InputTensor(
            shape=spec.shape,
            kind="float" if spec.kind == "float" else "int",
            below=spec.below,
            optional=spec.optional,
        )
        for name, spec in made.inputs().items()
    }
    return objective.model_copy(update={"phases": tuple(made.phases), "inputs": inputs})


def _with_asked_inputs(
    model: CustomConfig, objective: CustomObjectiveConfig, modules: Modules
) -> tuple[CustomConfig, tuple[str, ...]]:
    """With what the trained model is given when it is asked, of the tensors that the objective names; else why it can't be."""
    if set(modules) == {"model"}:
        parameters = inspect.signature(modules["model"].forward).parameters.values()
        named = {one.name: objective.inputs[one.name] for one in parameters if one.name in objective.inputs}
        if named and all(
            one.name in named
            or one.default is not one.empty
            or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            for one in parameters
        ):
            return model.model_copy(update={"inputs": named}), ()
    why = (
        "its forward takes other tensors than the objective" if "model" in modules else "none is called model"
    )
    note = f"the trained model can't be asked for predictions, and MLflow gets none: {why}"
    return model.model_copy(update={"inputs": {}}), (note,)


def _with_inputs(model: CustomConfig, objective: ObjectiveConfig, modules: Modules) -> CustomConfig:
    """With the parameters of ``forward`` as its inputs; what is written of some is kept."""
    if set(modules) != {"model"}:
        raise SpecError(
            f"model.factory: {objective.kind} trains one module, and {model.factory} returns"
            f" {', '.join(modules)}; give an objective of your own (objective.kind: custom)"
        )
    inputs = {}
    for name, parameter in inspect.signature(modules["model"].forward).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise SpecError(
                f"model.factory: forward takes {name!r} by position only; tensors are given by name"
            )
        inputs[name] = InputTensor(optional=parameter.default is not parameter.empty)
    inputs |= model.inputs or {}
    if not inputs:
        raise SpecError("model.factory: forward names no tensor; name them in model.inputs")
    if (given := _GIVEN.get(objective.kind)) is not None:
        always, sometimes = given
        needed = {name for name, one in inputs.items() if not one.optional}
        if needed - {*always, *sometimes} or set(always) - set(inputs):
            raise SpecError(
                f"model.factory: {objective.kind} gives forward {' and '.join(always)} and, where there is one,"
                f" {' and '.join(sometimes)}, but it takes {', '.join(inputs)}"
            )
        inputs = {name: one for name, one in inputs.items() if name in (*always, *sometimes)}
    return model.model_copy(update={"inputs": inputs})


def _blocks_note(model: CustomConfig, blocks: dict[str, Any]) -> str:
    how = "found: classes that repeat" if model.blocks is None else "as model.blocks says"
    said = [
        f"{kind} × {times}" + (f" in {name}" if len(blocks) > 1 else "")
        for name, counter in blocks.items()
        for kind, times in counter.items()
    ]
    if not said:
        return "no blocks for sharding and recomputation: the model is one (model.blocks names their classes)"
    return f"blocks for sharding and recomputation: {', '.join(said)} ({how})"


def _share_notes(layers: tuple[str, ...]) -> Iterator[str]:
    if layers:
        yield (
            f"{', '.join(layers[:5])}: batch normalization computes with each worker's share, so several workers"
            " don't give what one gives; group or layer normalization does"
        )


def try_out(model: CustomConfig, objective: ObjectiveConfig, lora: LoraSpec | None = None) -> Trial:
    """One step on fake tensors of the data's shapes.

    Raises:
        SpecError: a shape doesn't fit; with the name of the layer. Or adapters find no place.
    """
    real = None if model.deferred else build_modules(model, objective)
    mode = FakeTensorMode()
    with mode, without_onednn(), explained_overflow():
        modules = build_modules(model, objective) if real is None else faked(real, mode)
        if lora is not None:
            add_adapters(modules, lora, seed=0)
        beside = counted_beside(modules, lora)
        made = build_objective(model, objective)
        specs = made.inputs()
        batch = fake_batch(specs, lengths_of(model, specs), samples=_SAMPLES)
        sizes = tuple((name, parameter.numel()) for name, parameter in parameter_names(modules))
        notes: tuple[str, ...] = (_takes_note(batch),)
        before = _buffers(modules)
        flops = kept = 0
        with _watched(model, objective, modules, batch) as steps:
            try:
                flops, kept = count_phases(made, modules, batch)
                refuse_unused(modules)
                objective = _with_metrics(objective, made, modules, batch)
            except OF_VALUES as error:
                notes += (
                    f"forward goes by the values of tensors ({steps.place()}: {type(error).__name__}), so its shapes"
                    " were not tried and its operations not counted",
                )
    if changed := [name for name, buffer in _buffers(modules).items() if buffer != before.get(name)]:
        notes += (
            f"forward changes buffers ({', '.join(changed[:5])}): each worker's sees its share of the batch, and the first"
            " worker's is kept, so several workers give what one gives only where the share does not matter",
        )
    counts = Counts(
        parameters=sum(size for _, size in sizes),
        flops_per_sample=flops // _SAMPLES,
        activation_elements_per_sample=kept // _SAMPLES,
        parameter_sizes=sizes,
        beside=beside,
    )
    return Trial(counts, objective, notes)


def _buffers(modules: Modules) -> dict[str, tuple[int, int]]:
    """What changes with each buffer, by name; batch normalization's are spoken of elsewhere."""
    return {
        f"{path}.{name}".lstrip("."): (id(buffer), buffer._version)
        for module in modules.values()
        for path, child in module.named_modules()
        if not isinstance(child, nn.modules.batchnorm._BatchNorm)
        for name, buffer in child.named_buffers(recurse=False)
    }


def _with_metrics(
    objective: ObjectiveConfig, made: Objective, modules: Modules, batch: dict[str, Tensor]
) -> ObjectiveConfig:
    for phase in made.phases:
        made.units(phase, batch)
    with torch.no_grad():
        measured = made.evaluate(modules, batch)
    if not isinstance(objective, CustomObjectiveConfig):
        return objective
    if "loss" not in measured:
        raise SpecError(f"objective.factory: evaluate of {objective.factory} returns no 'loss'")
    return objective.model_copy(update={"metrics": tuple(name for name in measured if name != "loss")})


def _takes_note(batch: dict[str, Tensor]) -> str:
    shapes = [
        f"{name} {tuple(tensor.shape[1:])} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in batch.items()
        if name != "sample_seed"
    ]
    return f"a sample's tensors, by name: {', '.join(shapes)}"


def faked(modules: Modules, mode: FakeTensorMode) -> Modules:
    """The same modules with fake parameters and buffers; shared ones stay shared."""
    made: dict[int, Any] = {}
    for module in modules.values():
        for child in module.modules():
            for name, parameter in child._parameters.items():
                if parameter is not None:
                    child._parameters[name] = made.setdefault(id(parameter), mode.from_tensor(parameter))
            for name, buffer in child._buffers.items():
                if buffer is not None:
                    child._buffers[name] = made.setdefault(id(buffer), mode.from_tensor(buffer))
    return modules


class _Steps:
    """Which layers are being computed, the innermost last."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, str, str]] = []

    def place(self) -> str:
        """The innermost one in words."""
        if not self.entered:
            return "outside of the model"
        name, kind, _ = self.entered[-1]
        return f"layer {name!r} ({kind})" if name else f"forward of {kind}"

    def given(self) -> str:
        """What the innermost one was given."""
        return self.entered[-1][2] if self.entered else ""


@contextmanager
def _watched(
    model: CustomConfig, objective: ObjectiveConfig, modules: Modules, batch: dict[str, Tensor]
) -> Iterator[_Steps]:
    """Errors inside come out as a sentence with the layer's name; so does an output of another shape."""
    steps = _Steps()
    with ExitStack() as hooks:
        for module_name, module in modules.items():
            for path, child in module.named_modules():
                name = path if len(modules) == 1 else f"{module_name}/{path}".rstrip("/")
                for handle in _hooks(steps, name, child):
                    hooks.callback(handle.remove)
        expected = model.output_shape(objective)
        if expected is not None:
            check = partial(_check_output, objective, expected)
            hooks.callback(modules["model"].register_forward_hook(check).remove)
        try:
            yield steps
        except (SpecError, *OF_VALUES):
            raise
        except Exception as error:
            if "overflow" in str(error):
                raise
            given = f", given {steps.given()} (a batch of {_SAMPLES})," if steps.given() else ""
            section = "model.factory" if steps.entered else "objective"
            raise SpecError(f"{section}: {steps.place()}{given} failed: {described(error)}") from error


def _hooks(steps: _Steps, name: str, module: nn.Module) -> Iterator[Any]:
    def enter(child: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        shapes = ", ".join(f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in tensors)
        steps.entered.append((name, type(child).__name__, shapes))

    def leave(child: nn.Module, args: Any, out: Any) -> None:
        steps.entered.pop()

    yield module.register_forward_pre_hook(enter, with_kwargs=True)
    yield module.register_forward_hook(leave)


def _check_output(
    objective: ObjectiveConfig, expected: tuple[int | None, ...], module: nn.Module, args: Any, out: Any
) -> None:
    if not isinstance(out, Tensor):
        raise SpecError(
            f"model.factory: forward returns {type(out).__name__}, but {objective.kind} takes one tensor"
        )
    shape = tuple(out.shape[1:])
    fits = len(shape) == len(expected) and all(
        want in (None, has) for want, has in zip(expected, shape, strict=True)
    )
    if not fits:
        last = [
            name for name, child in module.named_modules() if name and not any(True for _ in child.children())
        ]
        wanted = (
            "(" + ", ".join(["samples", *("any" if size is None else str(size) for size in expected)]) + ")"
        )
        raise SpecError(
            f"model.factory: forward returns ({', '.join(['samples', *map(str, shape)])}), but {objective.kind} takes"
            f" {wanted}; its last layer is {last[-1] if last else type(module).__name__!r}"
        )
