"""Damaged and odd files of every format: each is read as others read it, or refused in a sentence."""

import random
from collections import Counter

import pytest
from corpus import FAULTS, cases, run_all

SLICE = 60
SEEDS = range(3)


def faults_of(chosen, tmp_path):
    answers = run_all(chosen, tmp_path)
    assert len(answers) > len(chosen) * 0.9
    outcomes = Counter(one["outcome"] for one in answers.values())
    assert outcomes["right"] > len(answers) / 5, outcomes
    assert outcomes["refused"] > len(answers) / 5, outcomes
    return {name: one for name, one in answers.items() if one["outcome"] in FAULTS}


def test_a_slice_of_the_corpus(tmp_path):
    assert not faults_of(random.Random(7).sample(list(cases()), SLICE), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_whole_corpus(seed, tmp_path):
    assert not faults_of(list(cases(seed)), tmp_path)


def test_a_process_that_dies_or_tells_of_a_fault_is_seen(tmp_path, monkeypatch):
    one = next(iter(cases()))
    (tmp_path / "one_run.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr("corpus.HERE", tmp_path)
    assert run_all([one], tmp_path / "dies", workers=1)[one.name]["outcome"] == "abort"
    (tmp_path / "one_run.py").write_text("input()\ninput()\n")
    monkeypatch.setattr("corpus.SECONDS", 0.2)
    assert run_all([one], tmp_path / "hangs", workers=1)[one.name]["outcome"] == "hang"
