"""Modules built without memory, and the first value of each tensor when it is asked for.

A family is plain PyTorch: its constructors make and fill tensors. Under ``build_deferred`` these have shapes but no
numbers (torch's ``meta`` device), and what would have been done to them is written down. ``FirstValues`` does it for one
tensor: what was not asked for takes no memory, so no rank needs to hold the model whole to begin.

Random numbers come from a generator of their own for each tensor, seeded by (seed, name): they are the same whatever
is asked for first, on however many ranks, and are the ones that the family's own code would draw.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from orchestrator.models.base import Modules

Key = int
"""A storage without memory, by its address in torch."""


@dataclass(frozen=True)
class _Place:
    """A tensor without memory: a view of a storage."""

    key: Key
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        """The same view of a storage with memory."""
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.shape, self.stride)


@dataclass(frozen=True)
class _Operation:
    """One call that made storages or wrote into some."""

    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    reads: frozenset[Key]
    writes: frozenset[Key]
    """Storages that it changes in place."""
    made: tuple[_Place | None, ...]
    """Its results, in order; None where one is no tensor."""
    replaces: bool
    """Whether nothing is left of what the storages held before."""
    draws: bool
    """Whether it draws random numbers."""

    @property
    def changed(self) -> frozenset[Key]:
        """The storages that are others after it."""
        return self.writes or frozenset(place.key for place in self.made if place is not None)


class _Recorder(TorchDispatchMode):
    """Writes down every operation that makes or changes a tensor on ``meta``."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self.storages: dict[Key, torch.UntypedStorage] = {}  # kept, so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_meta]
        made = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta for tensor in (*given, *made)):
            self._write_down(func, args, kwargs, given, made)
        return results

    def constant(self, value: Tensor) -> Tensor:
        """A tensor without memory that holds ``value`` once it has some."""
        with torch._C._DisableTorchDispatch():
            made = torch.empty_like(value, device="meta", requires_grad=value.requires_grad)
        self.storages[_key(made)] = made.untyped_storage()
        self.operations.append(
            _Operation(
                function=value.detach().clone,
                arguments=(),
                options={},
                reads=frozenset(),
                writes=frozenset(),
                made=(_place(made),),
                replaces=True,
                draws=False,
            )
        )
        return made

    def _write_down(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]) -> None:
        reads = frozenset(map(_key, given))
        written = _written(func, args, kwargs)
        if not written and all(_key(tensor) in reads for tensor in made):
            return  # another view of what is there
        for tensor in (*given, *made):
            self.storages[_key(tensor)] = tensor.untyped_storage()
        arguments, options = tree_map(_placed, (args, kwargs))
        draws = torch.Tag.nondeterministic_seeded in func.tags
        fills = draws or func.overloadpacket in _FILLING
        self.operations.append(
            _Operation(
                function=func,
                arguments=arguments,
                options=options,
                reads=reads,
                writes=frozenset(map(_key, written)),
                made=tuple(map(_place, made)) if not written else (),
                replaces=not written or (fills and _replaces(written, given)),
                draws=draws,
            )
        )


_FILLING = {torch.ops.aten.fill_, torch.ops.aten.zero_, torch.ops.aten.copy_}
"""Besides those that draw, in-place operations whose result does not depend on what was there."""


class _Constants(TorchFunctionMode):
    """Has ``torch.tensor`` keep the numbers that it is given, which a tensor without memory would lose."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is not torch.tensor or options.pop("device", None) is not None:
            return func(*args, **(kwargs or {}))
        return self._recorder.constant(torch.tensor(*args, device="cpu", **options))


class FirstValues:
    """The first value of every parameter and buffer of modules that were built without memory."""

    def __init__(self, recorder: _Recorder, modules: Modules, seed: int) -> None:
        self._operations, self._seed, operations = recorder.operations, seed, recorder.operations
        self._bytes = {key: storage.nbytes() for key, storage in recorder.storages.items()}
        self._changes: dict[Key, list[int]] = defaultdict(list)
        for number, operation in enumerate(operations):
            for key in operation.changed:
                self._changes[key].append(number)
        self._streams = _streams(operations, modules)
        self._given: dict[Key, Callable[[], Tensor]] = {}

    def made(self, tensor: Tensor) -> bool:
        """Whether it was written down here how the tensor's storage came to be."""
        return _key(tensor) in self._changes

    def give(self, tensor: Tensor, read: Callable[[], Tensor]) -> None:
        """From here on the value of ``tensor`` is what ``read`` returns, such as a weight from a file."""
        self._given[_key(tensor)] = read

    def of(self, tensor: Tensor) -> Tensor:
        """The value of a tensor of the modules, on the CPU, in memory of its own."""
        place = _place(tensor)
        if place.key in self._given:
            value = self._given[place.key]()
            return value.to(place.dtype, copy=True).reshape(place.shape)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return place.on(self._done_for(place.key))

    def _done_for(self, key: Key) -> torch.UntypedStorage:
        """The storage after all that was done to it."""
        storages: dict[Key, torch.UntypedStorage] = {}

        def real(leaf: Any) -> Any:
            if isinstance(leaf, _Place):
                if leaf.key not in storages:  # about to be replaced: what it held is not needed
                    storages[leaf.key] = torch.empty(
                        self._bytes[leaf.key], dtype=torch.uint8
                    ).untyped_storage()
                return leaf.on(storages[leaf.key])
            return torch.device("cpu") if leaf == torch.device("meta") else leaf

        for number in sorted(self._needed_for(key)):
            operation = self._operations[number]
            if operation.draws:
                torch.default_generator.manual_seed(self._seed_of(number))
            results = operation.function(
                *tree_map(real, operation.arguments), **tree_map(real, dict(operation.options))
            )
            tensors = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
            for place, tensor in zip(operation.made, tensors, strict=False):
                if place is not None:
                    storages[place.key] = _laid_out(tensor, place).untyped_storage()
        return storages[key]

    def _needed_for(self, key: Key) -> set[int]:
        """Numbers of the operations without which a storage would be another."""
        needed: set[int] = set()
        waiting = [(key, len(self._operations))]
        while waiting:
            key, before = waiting.pop()
            for number in reversed(self._changes.get(key, [])):
                if number >= before:
                    continue
                operation = self._operations[number]
                if number not in needed:
                    needed.add(number)
                    waiting += [(read, number) for read in operation.reads if read != key]
                if operation.replaces:
                    break
        return needed

    def _seed_of(self, number: int) -> int:
        name, count = self._streams[number]
        digest = hashlib.blake2b(f"{self._seed}\0{name}\0{count}".encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "little")


def build_deferred(build: Callable[[], Modules], seed: int) -> tuple[Modules, FirstValues]:
    """What ``build`` returns, without memory behind its tensors, and their first values for a seed."""
    recorder = _Recorder()
    with torch.device("meta"), _Constants(recorder), recorder:
        modules = build()
    return modules, FirstValues(recorder, modules, seed)


class _Joined(FirstValues):
    """Those of a model, and of what was put into it later."""

    def __init__(self, earlier: FirstValues, later: FirstValues) -> None:
        self._earlier, self._later = earlier, later

    def _whose(self, tensor: Tensor) -> FirstValues:
        return self._later if self._later.made(tensor) else self._earlier

    def made(self, tensor: Tensor) -> bool:
        """Whether one of both made it."""
        return self._later.made(tensor) or self._earlier.made(tensor)

    def give(self, tensor: Tensor, read: Callable[[], Tensor]) -> None:
        """To whose it is."""
        self._whose(tensor).give(tensor, read)

    def of(self, tensor: Tensor) -> Tensor:
        """From whose it is."""
        return self._whose(tensor).of(tensor)


def record_more(values: FirstValues, change: Callable[[], None], modules: Modules, seed: int) -> FirstValues:
    """The values of modules that were built without memory, and of what ``change`` puts into them, without memory too."""
    recorder = _Recorder()
    with torch.device("meta"), _Constants(recorder), recorder:
        change()
    return _Joined(values, FirstValues(recorder, modules, seed))


def _streams(operations: list[_Operation], modules: Modules) -> dict[int, tuple[str, int]]:
    """For each operation that draws: the name of the tensor that it draws for, and how many drew for it before.

    A tensor without a name, from which a named one was computed, draws for that one.
    """
    names: dict[Key, str] = {}
    for module_name, module in modules.items():
        for path, tensor in (*module.named_parameters(), *module.named_buffers()):
            names.setdefault(_key(tensor), f"{module_name}/{path}")
    for operation in reversed(operations):
        named = [names[key] for key in operation.changed if key in names]
        for key in operation.reads if named else ():
            names.setdefault(key, named[0])
    counts: dict[str, int] = defaultdict(int)
    streams = {}
    for number, operation in enumerate(operations):
        if operation.draws:
            name = names.get(min(operation.changed), "")
            streams[number] = (name, counts[name])
            counts[name] += 1
    return streams


def _key(tensor: Tensor) -> Key:
    return tensor.untyped_storage()._cdata


def _place(tensor: Tensor) -> _Place:
    return _Place(
        _key(tensor), tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()), tensor.dtype
    )


def _placed(leaf: Any) -> Any:
    return _place(leaf) if isinstance(leaf, Tensor) and leaf.is_meta else leaf


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a call changes in place."""
    if not func._schema.is_mutable:
        return []
    written: list[Any] = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += tree_leaves(args[position] if position < len(args) else kwargs.get(argument.name))
    return [leaf for leaf in written if isinstance(leaf, Tensor) and leaf.is_meta]


def _replaces(written: list[Tensor], given: list[Tensor]) -> bool:
    """Whether storages are written as a whole, and not from what they held."""
    whole = all(t.numel() * t.element_size() == t.untyped_storage().nbytes() for t in written)
    return whole and len(set(map(_key, given))) == len(given)


def _laid_out(tensor: Tensor, place: _Place) -> Tensor:
    """The tensor with the strides that were written down."""
    if tuple(tensor.stride()) == place.stride and tensor.storage_offset() == place.offset:
        return tensor
    return torch.empty_strided(place.shape, place.stride, dtype=place.dtype).copy_(tensor)
