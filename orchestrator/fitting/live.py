"""Counts the bytes of all tensors that are alive, and remembers what they were when they were most."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Key = int
"""A storage, by a number that no other one has."""


@dataclass(eq=False)
class Storage:
    """Memory that some tensors share."""

    key: Key
    size: int
    """Bytes now."""
    born: str
    """What was being done when it was made."""
    is_exchanged: bool = False
    """Whether other ranks' numbers were put into it, or it comes and goes under a tensor that stays."""
    is_logits: bool = False
    """Whether its last dimension is a vocabulary."""


class LiveTensors(TorchDispatchMode):
    """Inside, every storage is counted from the operation that makes it until nothing refers to it.

    Works on real tensors as on fake ones; what a kernel takes and gives back by itself is not seen.

    Attributes:
        doing: what is being done, for storages made from now on.
        now: bytes at the moment.
        peak: most bytes since the last ``forget_peak``.

    """

    def __init__(self, *, vocabulary: int | None = None) -> None:
        """
        Args:
            vocabulary: size of the last dimension of logits. Default: there are none.

        """
        super().__init__()
        self.doing = ""
        self.now = self.peak = 0
        self.at_peak: dict[Storage, int] = {}
        """Bytes of each storage at the peak; as of the last ``settle``."""
        self._storages: dict[int, Storage] = {}  # by address, which is used again once a storage is gone
        self._references: dict[int, Any] = {}
        self._vocabulary, self._made = vocabulary, 0
        self._is_new_peak = self._looks_away = False

    def __enter__(self) -> LiveTensors:
        resize = self._resize = torch.UntypedStorage.resize_

        def watched(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if (known := self._storages.get(storage._cdata)) is not None:
                known.is_exchanged = True
                self._count(storage)
            return result

        # a dispatch mode does not see it, and FSDP2 frees what it has gathered by it
        torch.UntypedStorage.resize_ = watched  # type: ignore[method-assign, assignment]
        self._lock, ShardingPropagator._fake_mode_lock = (
            ShardingPropagator._fake_mode_lock,
            self._looking_away(),
        )
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        ShardingPropagator._fake_mode_lock = self._lock
        self.settle()
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its own parts come by one after the other
        result = func(*args, **(kwargs or {}))
        if self._looks_away:
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and not (leaf.is_meta or isinstance(leaf, DTensor)):
                self.see(leaf)
        if func.namespace == "c10d":
            self._mark_exchanged(args)
        return result

    def _looking_away(self) -> Any:
        """DTensor finds out shapes on whole fakes, which no rank would hold."""
        live = self

        class LookingAway:
            def __enter__(self) -> None:
                live._looks_away = True

            def __exit__(self, *_: object) -> None:
                live._looks_away = False

        return LookingAway()

    def see(self, tensor: Tensor) -> Storage:
        """Count what the tensor lies in, as if it had been made now unless it is known."""
        known = self._count(tensor.untyped_storage())
        if self._vocabulary is not None and tensor.dim() > 1 and tensor.shape[-1] == self._vocabulary:
            known.is_logits = True
        return known

    def of(self, tensor: Tensor) -> Storage | None:
        """What the tensor lies in, where that is counted."""
        return self._storages.get(tensor.untyped_storage()._cdata)

    def alive(self) -> list[Storage]:
        """All that is counted now."""
        return list(self._storages.values())

    def forget_peak(self) -> None:
        """From here on the peak is what is held now, until there is more."""
        self.peak, self._is_new_peak = self.now, True

    def settle(self) -> None:
        """Write down what makes up the peak, where it is what is held now."""
        if self._is_new_peak:
            self.at_peak = {storage: storage.size for storage in self._storages.values() if storage.size}
            self._is_new_peak = False

    def _count(self, storage: torch.UntypedStorage) -> Storage:
        address, size = storage._cdata, storage.nbytes()
        known = self._storages.get(address)
        if known is None:
            self._made += 1
            known = self._storages[address] = Storage(self._made, 0, self.doing)
            self._references[address] = weakref.ref(storage, lambda _: self._forget(address))
        if size < known.size:
            self.settle()
        self.now += size - known.size
        known.size = size
        if self.now > self.peak:
            self.peak, self._is_new_peak = self.now, True
        return known

    def _forget(self, address: int) -> None:
        self.settle()
        self.now -= self._storages.pop(address).size
        del self._references[address]

    def _mark_exchanged(self, args: Any) -> None:
        for leaf in tree_leaves(args):
            if isinstance(leaf, Tensor) and (known := self.of(leaf)) is not None:
                known.is_exchanged = True
