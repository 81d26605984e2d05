"""What a rank is assembled from: the plan alone, and the same for a worker, for ``verify`` and for tests."""

import numpy as np
import pytest
import torch
from data_jobs import job_of, plan_of
from safetensors.torch import save_file

from orchestrator.checkpoint import Checkpoints, newest_good
from orchestrator.errors import CheckpointError, DataError, SpecError
from orchestrator.rank import assemble
from orchestrator.strategies.ddp import DdpEngine
from orchestrator.strategies.fsdp import FsdpEngine

IRIS = {"train": {"kind": "builtin", "name": "iris"}}


@pytest.fixture
def plan(tmp_path):
    """A plan for an MLP of eight features and eight classes, on this process alone."""

    def of(**sections):
        return plan_of(job_of(IRIS, **{"model": {"family": "mlp", "outputs": 8}, **sections}), tmp_path)

    return of


def parameters(rank):
    return {name: p.detach().clone() for name, p in rank.engine.modules["model"].named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_seed_decides_the_first_weights(plan):
    first, again, other = (parameters(assemble(plan(seed=seed))) for seed in (1, 1, 2))
    assert equal(first, again) and not equal(first, other)


def test_weights_are_looked_for_from_the_jobs_folder(plan, tmp_path):
    bias = torch.arange(8.0)
    (tmp_path / "given").mkdir()
    save_file({"head.bias": bias}, tmp_path / "given" / "some.safetensors")
    fresh = parameters(assemble(plan()))
    for path in ("given", "given/some.safetensors", str(tmp_path / "given")):
        started = parameters(assemble(plan(initialize={"weights": path, "strict": False})))
        assert torch.equal(started.pop("head.bias"), bias)
        assert equal(started, {name: value for name, value in fresh.items() if name != "head.bias"})


def test_a_rank_starts_from_another_runs_checkpoints(plan, tmp_path):
    other = assemble(plan(seed=5))
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), attempt=1, rank=0, world_size=1)
    model = plan().job.model.model_dump(mode="json")
    meta = {"scalars": other.engine.scalars(), "model": model}
    checkpoints.save(3, other.engine.state(), meta, asynchronous=False)
    started = assemble(plan(initialize={"weights": "checkpoints"}))
    assert equal(parameters(started), parameters(other))
    with pytest.raises(CheckpointError, match="nowhere: here is neither"):
        assemble(plan(initialize={"weights": "nowhere"}))

    loaded = assemble(plan(seed=6))
    loaded.load(newest_good(str(tmp_path / "checkpoints")))
    assert equal(parameters(loaded), parameters(other))

    of_tanh = {**meta, "model": {**model, "activation": "tanh"}}
    checkpoints.save(4, other.engine.state(), of_tanh, asynchronous=False)
    with pytest.raises(SpecError, match="another function than the model: activation is 'tanh' there"):
        assemble(plan(initialize={"weights": "checkpoints"}))


def test_frozen_parameters_are_not_trained(plan):
    rank = assemble(plan(initialize={"freeze": ["head.*"]}))
    trained = {name for name, p in rank.engine.modules["model"].named_parameters() if p.requires_grad}
    assert trained and not any(name.startswith("head.") for name in trained)
    with pytest.raises(SpecError, match="leaves nothing to train"):
        assemble(plan(initialize={"freeze": ["*"]}))


@pytest.mark.parametrize(("kind", "engine"), [("ddp", DdpEngine), ("fsdp", FsdpEngine)])
def test_the_plans_strategy_distributes_the_model(plan, kind, engine):
    assert type(assemble(plan(strategy={"kind": kind})).engine) is engine


def test_every_batch_is_checked_before_the_loop_has_it(plan):
    rank = assemble(plan())
    good = {"features": np.zeros((4, 8), np.float32), "label": np.arange(4)}
    assert {name: tuple(t.shape) for name, t in rank.to_tensors(good).items()} == {
        "features": (4, 8),
        "label": (4,),
    }
    with pytest.raises(DataError, match="'label' holds 8"):
        rank.to_tensors({**good, "label": np.array([0, 1, 8, 2])})


@pytest.mark.parametrize(
    ("document", "borders"), [([[0, 0, 1], [2, 3, 3]], [0, 2, 3, 4, 6]), ([[0, 1, 0], [0, 0, 0]], None)]
)
def test_a_gpu_is_told_where_documents_begin(document, borders, plan, monkeypatch):
    rank = assemble(
        plan(
            model={"family": "gpt", "size": "debug", "vocabulary": 9},
            objective={"kind": "causal_lm", "packed": True},
        )
    )
    arrays = {"tokens": np.ones((2, 3), np.int64), "document": np.array(document)}
    assert "document_border" not in rank.to_tensors(arrays)

    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(rank, "_on_gpu", True)
    told = rank.to_tensors(arrays)
    assert borders == (told["document_border"].tolist() if "document_border" in told else None)


def test_steps_are_handed_on_as_they_are_where_there_is_no_device_to_copy_to(plan):
    rank = assemble(plan())
    stream = iter([])
    assert rank.on_device(stream) is stream
    batch = {"features": torch.zeros(1)}
    assert rank.to_device(batch) is batch
