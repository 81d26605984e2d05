"""The model that a run logs to MLflow, as code: weights from safetensors, architecture from its config. No pickle.

``mlflow.pyfunc.load_model(uri).predict({"image": array})`` gives the family's outputs as an array.
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

        from orchestrator.models import build_modules
        from orchestrator.models.configs import ModelConfig, ObjectiveSection
        from orchestrator.models.initialize import restore

        folder = Path(context.artifacts["model"])
        written = json.loads((folder / "config.json").read_text())
        config: Any = TypeAdapter(ModelConfig).validate_python(written["model"])
        objective: Any = TypeAdapter(ObjectiveSection).validate_python(written["objective"])
        weights = load_file(folder / "model.safetensors")
        self.modules = build_modules(config, objective)
        restore(self.modules, weights)
        for module in self.modules.values():
            module.eval()
        self.names = tuple(config.input_tensors(objective))

    # without type hints: MLflow would take them for a schema of the input, and warn that it is none
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Outputs for named arrays: ``{"image": (B, C, H, W)}``, ``{"features": (B, F)}``, ``{"tokens": (B, T)}`` ..."""
        import torch

        module = self.modules.get("model") or self.modules["generator_ema"]
        arrays = model_input if isinstance(model_input, dict) else {self.names[0]: model_input}
        names = self.names if set(arrays) <= set(self.names) else tuple(arrays)  # a generator takes noise
        tensors = [_tensor(arrays[name]) if name in arrays else None for name in names]
        with torch.no_grad():
            output = module(*tensors)
        first = output[0] if isinstance(output, tuple) else output
        return first.float().numpy()


def _tensor(values: Any) -> Any:
    """float32 or int64, as the families take them."""
    import numpy as np
    import torch

    array = np.asarray(values)
    return torch.as_tensor(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


mlflow.models.set_model(TrainedModel())
