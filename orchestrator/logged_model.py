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

        folder = Path(context.artifacts["model"])
        written = json.loads((folder / "config.json").read_text())
        config: Any = TypeAdapter(ModelConfig).validate_python(written["model"])
        objective: Any = TypeAdapter(ObjectiveSection).validate_python(written["objective"])
        weights = load_file(folder / "model.safetensors")
        self.modules = build_modules(config, objective)
        for name, module in self.modules.items():
            own = {
                key.removeprefix(f"{name}/"): value
                for key, value in weights.items()
                if key.startswith(f"{name}/")
            }
            module.load_state_dict(own)
            module.eval()

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Outputs for named arrays: ``{"image": (B, C, H, W)}``, ``{"features": (B, F)}``, ``{"tokens": (B, T)}`` ..."""
        import numpy as np
        import torch

        module = (
            self.modules.get("model") or self.modules.get("generator") or next(iter(self.modules.values()))
        )
        arrays = (
            model_input
            if isinstance(model_input, dict)
            else {"features": np.asarray(model_input, np.float32)}
        )
        tensors = [torch.as_tensor(np.asarray(value)) for value in arrays.values()]
        with torch.no_grad():
            output = module(*tensors)
        first = output[0] if isinstance(output, tuple) else output
        return first.float().numpy()


mlflow.models.set_model(TrainedModel())
