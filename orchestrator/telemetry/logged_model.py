"""The model that a run logs to MLflow, as code: weights from safetensors, architecture from its config. No pickle.

``mlflow.pyfunc.load_model(uri).predict(...)`` takes

- rows as the data source has them, as a DataFrame with its columns: they are encoded, scaled and tokenized as in
  training; of series, the last rows, which the forecast follows;
- texts, as a list of strings, where the model reads text;
- the input tensors by name, ``{"image": array}``, as the model takes them: nothing is done to these.

It gives the family's outputs as an array; of a language model that is given text, how the text goes on; of series that
are given as rows, the forecast rows in the series' own units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel


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

        folder = Path(context.artifacts["model"])
        written = json.loads((folder / "config.json").read_text())
        config: Any = TypeAdapter(ModelConfig).validate_python(written["model"])
        objective: Any = TypeAdapter(ObjectiveSection).validate_python(written["objective"])
        self.inputs = Inputs.model_validate_json((folder / "inputs.json").read_text())
        weights = load_file(folder / "model.safetensors")
        modules = build_modules(config, objective)
        restore(modules, weights)
        for module in modules.values():
            module.eval()
        self.module = modules.get("model") or modules["generator_ema"]
        self.names = tuple(config.input_tensors(objective))
        self.context: int = config.max_tokens or 0
        self.packed = getattr(objective, "packed", False)
        self.kind = objective.kind

    # without type hints: MLflow would take them for a schema of the input, and warn that it is none
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """See the module. ``params``, of a language model given text: ``tokens`` to write at most (128) and ``seed``."""
        import pandas as pd
        import pyarrow as pa

        if isinstance(model_input, str):
            model_input = [model_input]
        if isinstance(model_input, list) and all(isinstance(text, str) for text in model_input):
            model_input = pd.DataFrame({self.inputs.text_column or "text": model_input})
        if not isinstance(model_input, pd.DataFrame):
            return self._outputs(model_input)
        rows = pa.Table.from_pandas(model_input, preserve_index=False)
        if self.kind == "causal_lm" and self.inputs.text_column is not None:
            return self._continuations(rows[self.inputs.text_column].to_pylist(), **(params or {}))
        outputs = self._outputs(self.inputs.tensors(rows))
        return self.inputs.forecast(outputs) if self.kind == "forecasting" else outputs

    def _outputs(self, tensors: Any) -> Any:
        import torch

        arrays = tensors if isinstance(tensors, dict) else {self.names[0]: tensors}
        names = self.names if set(arrays) <= set(self.names) else tuple(arrays)  # a generator takes noise
        given = [_tensor(arrays[name]) if name in arrays else None for name in names]
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


def _tensor(values: Any) -> Any:
    """float32 or int64, as the families take them."""
    import numpy as np
    import torch

    array = np.asarray(values)
    return torch.as_tensor(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


mlflow.models.set_model(TrainedModel())
