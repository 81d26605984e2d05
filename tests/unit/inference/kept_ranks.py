"""What a rank does in the tests of evaluations that go on: measure, in processes of its own."""

import os
import signal
from pathlib import Path
from unittest import mock

from orchestrator.inference import evaluate
from orchestrator.inference.kept_sums import KeptSums


def putting_down(order):
    """``measure``, that puts its sums down whenever it looks, and notes which batches it adds."""
    with mock.patch.object(evaluate, "_SECONDS_BETWEEN_KEPT", 0):
        return _noted(order)


def dying(order):
    """The same; the last rank is killed once it has added 36 batches."""
    with mock.patch.object(KeptSums, "add", _killed(KeptSums.add)):
        return putting_down(order)


def leaving(order):
    """``measure``, whose rank knows that it will go; the last one is killed as in ``dying``."""
    with mock.patch.object(KeptSums, "add", _killed(KeptSums.add)):
        return _noted(order, lambda: True)


def _noted(order, *is_leaving):
    add, notes = KeptSums.add, Path(order["kept"]).parent
    notes.mkdir(parents=True, exist_ok=True)

    def noted(self, statistics):
        (notes / f"added-{self._rank}-{self.batches}").touch()
        add(self, statistics)

    with mock.patch.object(KeptSums, "add", noted):
        return evaluate.measure(order, *is_leaving)


def _killed(add):
    def killed(self, statistics):
        add(self, statistics)
        if self.batches == 36 and self._rank == self._ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return killed
