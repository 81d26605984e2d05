"""Scores of texts are sacrebleu's, of all that was written together."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.errors import SpecError
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import SequenceToSequenceConfig, TransformerConfig
from orchestrator.models.metrics import summarized
from orchestrator.models.objectives.generation import written
from orchestrator.models.text_scores import scored
from orchestrator.planning.fit import check_measured
from orchestrator.spec.job import JobSpec
from orchestrator.telemetry.evaluation_sums import EvaluationSums

VOCABULARY, END = 12, 1
CONFIG = TransformerConfig(size="debug", vocabulary=VOCABULARY, context=9, target_context=10)
OBJECTIVE = SequenceToSequenceConfig(start_token=0, end_token=END, metrics=("bleu", "chrf"), beams=2)


def spell(tokens: Any) -> str:
    real = list(tokens)
    return " ".join(f"word{one}" for one in real[: real.index(END) if END in real else None])


def test_they_are_sacrebleu_s_however_samples_are_split() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    torch.manual_seed(0)
    modules, made = build_modules(CONFIG, OBJECTIVE), build_objective(CONFIG, OBJECTIVE)
    modules["model"].eval()
    source = torch.randint(2, VOCABULARY, (6, 9))
    options: Any = {"tokens": 10, "start": 0, "end": END, "by_name": False, "beams": 2}
    text = written(modules["model"], {"tokens": source, "length": None}, **options)
    target = text.clone()
    target[:, 3] = 2 + (text[:, 3] % 7)
    length = torch.tensor([10, 6, 8, 10, 5, 7])
    batch = {
        "tokens": source,
        "target": target,
        "target_length": length,
        "weight": torch.tensor([1.0, 1, 0, 1, 1, 1]),
    }

    def found(*batches: dict[str, torch.Tensor]) -> dict[str, float]:
        sums = EvaluationSums(torch.device("cpu"))
        for one in batches:
            sums.add(made.evaluate(modules, one))
        return summarized(OBJECTIVE.measured, sums.totals(), spell=spell).values

    rows = [0, 1, 3, 4, 5]
    wanted = [spell([*target[row, : length[row]].tolist(), END]) for row in rows]
    whole = found(batch)
    # what is written is as long as a batch's targets at most
    got = [spell(text[row].tolist()) for row in rows]
    assert whole["bleu"] == pytest.approx(sacrebleu.corpus_bleu(got, [wanted]).score)
    assert whole["chrf"] == pytest.approx(sacrebleu.corpus_chrf(got, [wanted]).score)
    assert 0 < whole["bleu"] < 100
    halves = [{name: one[part] for name, one in batch.items()} for part in (slice(0, 2), slice(2, 6))]
    assert found(*halves) == pytest.approx(whole, rel=1e-6)


def test_without_sacrebleu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(SpecError, match=r"install trainwright\[text\], here and on the workers"):
        scored(("bleu",), np.zeros((1, 3)), spell)


def test_tokens_are_no_text_to_score() -> None:
    job: Any = JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "transformer"},
            "objective": {"kind": "sequence_to_sequence", "metrics": ["chrf"]},
            "data": {"train": {"kind": "parquet", "path": "x.parquet"}},
            "training": {"max_steps": 1},
        }
    )
    with pytest.raises(SpecError, match="chrf compares texts, and the data comes as tokens"):
        check_measured(job)
