"""The model that a run logs to MLflow, as code: weights from safetensors, architecture from its config. No pickle.

``mlflow.pyfunc.load_model(uri).predict(...)`` takes rows as the data source has them, as a DataFrame with its columns:
they are encoded, scaled and tokenized as in training. Where one column is read (texts, pictures), a list will do; a
picture is given by its path or URI, as bytes, or in base64. Of series, rows are the past that the forecast follows.

It gives, by objective

- ``classification``, ``binary``: ``class``, ``probability`` and ``probabilities`` by class; ``multilabel``: ``classes`` and
  ``probabilities``; ``token_classification``: ``classes`` and ``probabilities`` of each token;
- ``forecasting``: the rows that follow, with their times, in the series' own units; of each group, where there are several;
- ``causal_lm``: how each text goes on;
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

from orchestrator.spec.preparations import Windows
from orchestrator.telemetry.answers import answer, forecast_table, reconstruction_errors


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

        folder = Path(context.artifacts["model"])
        written = json.loads((folder / "config.json").read_text())
        config: Any = TypeAdapter(ModelConfig).validate_python(written["model"])
        objective: Any = TypeAdapter(ObjectiveSection).validate_python(written["objective"])
        self.inputs = Inputs.model_validate_json((folder / "inputs.json").read_text())
        weights = load_file(folder / "model.safetensors")
        if (folder / "code").is_dir():
            put_first(str(folder / "code"))
        modules = build_modules(config, objective)
        restore(modules, weights)
        for module in modules.values():
            module.eval()
        self.module = modules.get("model") or modules["generator_ema"]
        self.names = tuple(config.export_tensors(objective))
        self.context: int = config.max_tokens or 0
        self.packed = getattr(objective, "packed", False)
        self.kind = objective.kind

    # without type hints: MLflow would take them for a schema of the input, and warn that it is none
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """See the module. ``params``: ``raw``, the outputs as they are; of a language model ``tokens`` to write at most
        (128) and ``seed``.
        """
        import numpy as np

        raw, more = _split(params)
        frame = self._frame(model_input)
        if self.kind == "causal_lm" and self.inputs.text_column is not None:
            return self._continuations(frame[self.inputs.text_column].tolist(), **more)
        if self.kind == "forecasting" and self.inputs.columns:
            return self._forecasts(frame)
        if self.inputs.columns:
            tensors = self.inputs.tensors(_table(frame))
        else:
            tensors = {str(name): np.array(frame[name].tolist()) for name in frame}
        outputs = self.outputs(tensors)
        if raw:
            return outputs
        if self.kind == "reconstruction":
            return reconstruction_errors(tensors[self.names[0]], outputs)
        return answer(self.kind, outputs, self.inputs.classes, tensors.get("length"))

    def _frame(self, given: Any) -> Any:
        """What was given as a DataFrame, under the names of the columns that are read."""
        import pandas as pd

        frame = given if isinstance(given, pd.DataFrame) else pd.DataFrame(given)
        columns = self.inputs.columns
        if len(columns) == 1 and len(frame.columns) == 1:
            return frame.set_axis(list(columns), axis=1)
        return frame

    def _forecasts(self, frame: Any) -> Any:
        """The rows that follow; of each group, where the frame has several."""
        import pandas as pd

        prepare = self.inputs.prepare
        assert isinstance(prepare, Windows)
        group = prepare.group if prepare.group in frame else None
        parts = [(None, frame)] if group is None else list(frame.groupby(group, sort=False))
        tables = []
        for name, part in parts:
            rows = self.inputs.forecast(self.outputs(self.inputs.tensors(_table(part))))
            time, learned = self.inputs.learned["time"], self.inputs.learned
            past = part[time].iloc[-prepare.past :] if time in part else None
            table = forecast_table(rows, learned["series"], time, past, learned["step"])
            if group is not None:
                table.insert(0, group, name)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def outputs(self, arrays: Any) -> Any:
        """The model's outputs (rows, ...) of input tensors by name, as the model itself takes them."""
        import torch

        given = [_tensor(arrays[name]) if name in arrays else None for name in self.names]
        with torch.no_grad():
            output = self.module(*given)
        first = output[0] if isinstance(output, tuple) else output
        return first.float().numpy()

    def _continuations(self, texts: list[str], tokens: int = 128, seed: int = 0) -> list[str]:
        import torch

        from orchestrator.models.objectives.generation import continued

        written = []
        for number, text in enumerate(texts):  # one by one, since their prompts differ in length
            prompt = torch.from_numpy(self.inputs.prompt(text))[None]
            chance = torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed + number))
            whole = continued(self.module, prompt, chance, context=self.context, packed=self.packed)
            written.append(self.inputs.written(whole[0, prompt.shape[1] :].tolist()))
        return written


def _split(params: Any) -> tuple[bool, dict[str, int]]:
    more = {name: value for name, value in (params or {}).items() if name != "raw"}
    return bool((params or {}).get("raw")), more


def _table(frame: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


def _tensor(values: Any) -> Any:
    """float32 or int64, as the families take them."""
    import numpy as np
    import torch

    array = np.asarray(values)
    return torch.as_tensor(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


mlflow.models.set_model(TrainedModel())
