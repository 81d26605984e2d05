"""Where samples come from, what is done to them, and which one comes when. Everything is imported on use: a client that only
submits has no Arrow and no NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.data.inspect_data import inspect
    from orchestrator.data.known import bundled_facts
    from orchestrator.data.listening import raw_sounds
    from orchestrator.data.meaning import changed_meaning
    from orchestrator.data.prepare_data import prepare
    from orchestrator.data.prepared import Prepared, describe_change
    from orchestrator.data.reading.bad_samples import place_of
    from orchestrator.data.reading.evaluation import EvalStream, open_eval
    from orchestrator.data.reading.pure_order import samples_by_step
    from orchestrator.data.reading.training import StepBatch, TrainStream, open_train
    from orchestrator.data.serving import INPUTS, Inputs, decode_text, inputs_of, spell_of, token_bytes_of

_PUBLIC = {
    "INPUTS": "serving",
    "EvalStream": "reading.evaluation",
    "Inputs": "serving",
    "Prepared": "prepared",
    "StepBatch": "reading.training",
    "TrainStream": "reading.training",
    "bundled_facts": "known",
    "changed_meaning": "meaning",
    "decode_text": "serving",
    "describe_change": "prepared",
    "inputs_of": "serving",
    "inspect": "inspect_data",
    "open_eval": "reading.evaluation",
    "open_train": "reading.training",
    "place_of": "reading.bad_samples",
    "prepare": "prepare_data",
    "raw_sounds": "listening",
    "samples_by_step": "reading.pure_order",
    "spell_of": "serving",
    "token_bytes_of": "serving",
}

__all__ = [
    "INPUTS",
    "EvalStream",
    "Inputs",
    "Prepared",
    "StepBatch",
    "TrainStream",
    "bundled_facts",
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


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
