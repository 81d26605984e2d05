"""Where samples come from, what is done to them, and which one comes when. Heavy libraries are imported on use."""

from __future__ import annotations

from orchestrator.data.inspect_data import inspect
from orchestrator.data.listening import raw_sounds
from orchestrator.data.meaning import changed_meaning
from orchestrator.data.prepare_data import prepare
from orchestrator.data.prepared import Prepared, describe_change
from orchestrator.data.reading.bad_samples import place_of
from orchestrator.data.reading.evaluation import EvalStream, open_eval
from orchestrator.data.reading.pure_order import samples_by_step
from orchestrator.data.reading.training import StepBatch, TrainStream, open_train
from orchestrator.data.serving import INPUTS, Inputs, decode_text, inputs_of, spell_of, token_bytes_of

__all__ = [
    "INPUTS",
    "EvalStream",
    "Inputs",
    "Prepared",
    "StepBatch",
    "TrainStream",
    "changed_meaning",
    "decode_text",
    "describe_change",
    "inputs_of",
    "inspect",
    "open_eval",
    "open_train",
    "place_of",
    "prepare",
    "raw_sounds",
    "samples_by_step",
    "spell_of",
    "token_bytes_of",
]
