"""The model that a run logs to MLflow, as code: weights from safetensors, architecture from its config. No pickle.

``mlflow.pyfunc.load_model(uri).predict(...)`` takes rows as the data source has them, as a DataFrame with its columns:
they are encoded, scaled and tokenized as in training. Where one column is read (texts, pictures, sounds), a list will do; a
picture or sound is given by its path or URI, as bytes, or in base64. Of series, rows are the past that the forecast follows.

It gives, by objective

- ``classification``, ``binary``: ``class``, ``probability`` and ``probabilities`` by class; ``multilabel``: ``classes`` and
  ``probabilities``; ``token_classification``: ``classes`` and ``probabilities`` of each token;
- ``forecasting``: the rows that follow, with their times, in the series' own units; of each group, where there are several;
- ``causal_lm``: how each text goes on, or the answer to each conversation (messages, their JSON, or what a user says); ``sequence_to_sequence``: what it makes of each;
- ``ctc``: the text that is ``heard``;
- ``reconstruction``: each row's ``error``, its anomaly score;
- else the family's outputs as an array, as everywhere with ``params={"raw": True}``. A generator takes its ``noise``.

``model.unwrap_python_model().outputs({"image": array})`` takes tensors as the model itself does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel

if (_code := Path(__file__).parent / "code" / "trainwright.zip").exists():
    sys.path.insert(0, str(_code))  # the project as it was when the model was logged


class TrainedModel(PythonModel):
    """A trained family behind MLflow's ``predict``."""

    def load_context(self, context: Any) -> None:
        """Build the modules and put the weights in place."""
        from pydantic import TypeAdapter
        from safetensors.torch import load_file

        from orchestrator.data import Inputs
        from orchestrator.models import build_modules
        from orchestrator.models.configs import ModelConfig, ObjectiveSection
        from orchestrator.models.initialize import restore
        from orchestrator.own_code import put_first
        from orchestrator.telemetry.trained import Trained

        folder = Path(context.artifacts["model"])
        written = json.loads((folder / "config.json").read_text())
        config: Any = TypeAdapter(ModelConfig).validate_python(written["model"])
        objective: Any = TypeAdapter(ObjectiveSection).validate_python(written["objective"])
        inputs = Inputs.model_validate_json((folder / "inputs.json").read_text())
        weights = load_file(folder / "model.safetensors")
        if (folder / "code").is_dir():
            put_first(str(folder / "code"))
        modules = build_modules(config, objective)
        restore(modules, weights)
        self.trained = Trained(modules, config, objective, inputs)

    @property
    def inputs(self) -> Any:
        """What it takes."""
        return self.trained.inputs

    # without type hints: MLflow would take them for a schema of the input, and warn that it is none
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """See the module. ``params``: ``raw``, the outputs as they are; of a model that writes ``tokens`` to write at most
        (128) and, of one that goes on from a text, ``seed`` and ``temperature`` (1).
        """
        import numpy as np

        raw, more = _split(params)
        frame, trained = self._frame(model_input), self.trained
        if trained.writes:
            return trained.continuations(frame[self.inputs.text_column].tolist(), **more)
        if self.inputs.series:
            return trained.forecasts(frame)
        if self.inputs.columns:
            tensors = self.inputs.tensors(_table(frame))
        else:
            tensors = {str(name): np.array(frame[name].tolist()) for name in frame}
        return trained.outputs(tensors) if raw else trained.meaning(tensors)

    def _frame(self, given: Any) -> Any:
        """What was given as a DataFrame, under the names of the columns that are read."""
        import pandas as pd

        frame = given if isinstance(given, pd.DataFrame) else pd.DataFrame(given)
        columns = self.inputs.columns
        if len(columns) == 1 and len(frame.columns) == 1:
            return frame.set_axis(list(columns), axis=1)
        return frame

    def outputs(self, arrays: Any) -> Any:
        """The model's outputs (rows, ...) of input tensors by name, as the model itself takes them."""
        return self.trained.outputs(arrays)


def _split(params: Any) -> tuple[bool, dict[str, Any]]:
    more = {name: value for name, value in (params or {}).items() if name != "raw"}
    return bool((params or {}).get("raw")), more


def _table(frame: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


mlflow.models.set_model(TrainedModel())
