"""What comes of asking a trained model."""

from __future__ import annotations

from orchestrator.section import AnyFloat, Section


class Predicted(Section):
    """Predictions for all rows of some files."""

    run: str
    """The run that trained the model."""
    step: int
    """Of the checkpoint."""
    output: str
    """The folder."""
    parts: int
    """Its files."""
    parts_kept: int
    """Those that were there before."""
    rows: int
    """Rows of the files that were written now."""

    @property
    def sentence(self) -> str:
        """For a person."""
        there = f", {self.parts_kept} files were there" if self.parts_kept else ""
        return f"{self.output}: {self.parts} files by the model of step {self.step}; wrote {self.rows:,} rows now{there}"

    @property
    def tracked(self) -> dict[str, float]:
        """Predictions are no metrics."""
        return {}


class Evaluation(Section):
    """Metrics of a checkpoint over data."""

    run: str
    """The run that trained the model."""
    step: int
    """Of the checkpoint."""
    data: str
    """What the data is called."""
    samples: int
    """Samples that were counted, each once."""
    metrics: dict[str, AnyFloat]
    """By the names that training evaluates under, without ``val/``."""

    @property
    def sentence(self) -> str:
        """For a person."""
        return f"{self.samples:,} samples of {self.data} by the model of step {self.step}"

    @property
    def tracked(self) -> dict[str, float]:
        """The metrics by their names in the run's record."""
        return {f"evaluate/{self.data}/{name}": value for name, value in self.metrics.items()}


RESULTS: dict[str, type[Predicted] | type[Evaluation]] = {"predict": Predicted, "evaluate": Evaluation}
"""Kind of a question -> what comes of it."""
