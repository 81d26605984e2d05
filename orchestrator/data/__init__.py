"""Where samples come from, what is done to them, and which one comes when. Heavy libraries are imported on use."""

from __future__ import annotations

from orchestrator.data.inspection import inspect
from orchestrator.data.prepared import Prepared, describe_change
from orchestrator.data.preparing import prepare
from orchestrator.data.reading_back import decode_text
from orchestrator.data.serving import Inputs, inputs_of
from orchestrator.data.stream import EvalStream, StepBatch, TrainStream, open_eval, open_train

__all__ = [
    "EvalStream",
    "Inputs",
    "Prepared",
    "StepBatch",
    "TrainStream",
    "decode_text",
    "describe_change",
    "inputs_of",
    "inspect",
    "open_eval",
    "open_train",
    "prepare",
]
