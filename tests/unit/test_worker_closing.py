"""What a worker opens is closed, and why it ends is what is told."""

from __future__ import annotations

import logging

import pytest

from orchestrator.worker import closing


class Broken:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        raise RuntimeError("CUDA error: unspecified launch failure")


def test_an_error_while_closing_does_not_replace_the_first(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="the first"), closing(broken):
        raise ValueError("the first")
    assert broken.closed == 1
    assert "and then, while ending: RuntimeError: CUDA error: unspecified launch failure" in caplog.text


def test_without_another_error_it_is_told() -> None:
    broken = Broken()
    with pytest.raises(RuntimeError, match="unspecified launch failure"), closing(broken):
        pass
    assert broken.closed == 1
