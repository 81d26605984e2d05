"""What holds for every family with every objective."""

from __future__ import annotations

import pytest
import torch
from family_cases import CASES, IDS, Case, random_batch
from torch import Tensor

from orchestrator.errors import DataError, SpecError
from orchestrator.models import build_modules, build_objective
from orchestrator.models.base import check_batch
from orchestrator.models.configs import (
    AdversarialConfig,
    CausalLmConfig,
    GanConfig,
    LstmConfig,
    MlpConfig,
    MultilabelConfig,
    RegressionConfig,
)
from orchestrator.models.objectives.language import SAMPLE_TOKENS

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _made(case: Case):
    modules = build_modules(case.config, case.objective)
    for module in modules.values():
        module.eval()  # dropout off: it is not a function of the sample
    return modules, build_objective(case.config, case.objective)


def _gradients(modules, objective, phase: str, parts: list[dict[str, Tensor]], count: float) -> list[Tensor]:
    trained = modules[objective.trains(phase)]
    for name, module in modules.items():
        module.requires_grad_(name == objective.trains(phase))
        module.zero_grad()
    for part in parts:
        (objective.loss(phase, modules, part).loss / count).backward()
    return [parameter.grad.clone() for parameter in trained.parameters()]


@every_case
def test_a_batch_as_the_specs_say_is_accepted(case: Case):
    _, objective = _made(case)
    check_batch(random_batch(case, objective.inputs(), 4), objective.inputs())


@every_case
def test_parts_of_a_batch_add_up_to_the_whole(case: Case):
    modules, objective = _made(case)
    batch = random_batch(case, objective.inputs(), 6)
    parts = [{name: tensor[a:b] for name, tensor in batch.items()} for a, b in ((0, 1), (1, 4), (4, 6))]
    for phase in objective.phases:
        whole = objective.loss(phase, modules, batch)
        shares = [objective.loss(phase, modules, part) for part in parts]
        torch.testing.assert_close(sum(s.loss for s in shares), whole.loss, rtol=1e-6, atol=1e-6)
        assert sum(s.count for s in shares) == whole.count == objective.units(phase, batch)
        assert whole.count > 0
        for name, (total, count) in whole.metrics.items():
            torch.testing.assert_close(sum(s.metrics[name][0] for s in shares), total, rtol=1e-5, atol=1e-5)
            assert sum(s.metrics[name][1] for s in shares) == count
        together = _gradients(modules, objective, phase, [batch], whole.count.item())
        apart = _gradients(modules, objective, phase, parts, whole.count.item())
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@every_case
def test_padding_samples_change_nothing(case: Case):
    modules, objective = _made(case)
    batch = random_batch(case, objective.inputs(), 5)
    real = {name: tensor[:3] for name, tensor in batch.items()}
    padded = {**batch, "weight": torch.tensor([1.0, 1, 1, 0, 0])}
    for phase in objective.phases:
        one, other = objective.loss(phase, modules, real), objective.loss(phase, modules, padded)
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=1e-6)
        assert one.count == other.count == objective.units(phase, padded)
    for name, (total, count) in objective.evaluate(modules, real).items():
        padded_total, padded_count = objective.evaluate(modules, padded)[name]
        torch.testing.assert_close(padded_total, total, rtol=1e-5, atol=1e-5)
        assert padded_count == count


@pytest.mark.parametrize(
    "case", [c for c in CASES if "tokens" in c.config.input_tensors(c.objective)], ids=lambda c: c.name
)
def test_what_fills_a_sequence_up_changes_nothing(case: Case):
    modules, objective = _made(case)
    assert "length" in objective.inputs()
    filled = {**random_batch(case, objective.inputs(), 3), "length": torch.tensor([2, 5, 11])}
    cut = [
        {
            name: tensor[row : row + 1, :length]
            if tensor.dim() == 2 and name not in ("label", "target")
            else tensor[row : row + 1]
            for name, tensor in filled.items()
            if name != "length"
        }
        for row, length in enumerate(filled["length"].tolist())
    ]
    if case.objective.kind == "token_classification":
        cut = [{**one, "label": one["label"][:, : one["tokens"].shape[1]]} for one in cut]
    (phase,) = objective.phases
    sums = objective.loss(phase, modules, filled)
    alone = [objective.loss(phase, modules, one) for one in cut]
    torch.testing.assert_close(sums.loss, sum(one.loss for one in alone), rtol=1e-5, atol=1e-5)
    assert sums.count == sum(one.count for one in alone) == objective.units(phase, filled)
    assert sums.count > 0
    evaluated = [objective.evaluate(modules, one) for one in cut]
    for name, (total, count) in objective.evaluate(modules, filled).items():
        torch.testing.assert_close(
            torch.as_tensor(total).float(),
            sum(torch.as_tensor(one[name][0]).float() for one in evaluated),
            rtol=1e-5,
            atol=1e-5,
        )
        assert count == sum(one[name][1] for one in evaluated)


def test_text_goes_on_from_what_is_really_there():
    case = next(case for case in CASES if case.name == "gpt")
    modules, objective = _made(case)
    batch = {**random_batch(case, objective.inputs(), 3), "length": torch.tensor([9, 4, 7])}
    for sample, tokens in zip(objective.samples(modules, batch, 2), batch["tokens"], strict=False):
        assert sample.data[:4].tolist() == tokens[:4].tolist()
        assert len(sample.data) == 4 + SAMPLE_TOKENS


@every_case
def test_units_of_a_sample_are_as_declared(case: Case):
    _, objective = _made(case)
    batch = random_batch(case, objective.inputs(), 5)
    if objective.units_per_sample is not None:
        for phase in objective.phases:
            assert objective.units(phase, batch) == 5 * objective.units_per_sample


@every_case
def test_every_trained_parameter_gets_a_gradient(case: Case):
    modules, objective = _made(case)
    batch = random_batch(case, objective.inputs(), 4)
    for phase in objective.phases:
        for gradient in _gradients(modules, objective, phase, [batch], 1.0):
            assert torch.isfinite(gradient).all()
    trained = {objective.trains(phase) for phase in objective.phases}
    assert all(hasattr(modules[name], "average_of") for name in set(modules) - trained)


@every_case
def test_blocks_are_in_the_module(case: Case):
    modules, _ = _made(case)
    if getattr(case.config, "layers", "") == "mlp":
        return  # fully connected pairs and autoencoders are one piece
    for module in modules.values():
        assert any(isinstance(child, module.block_classes) for child in module.modules())


@every_case
def test_samples_are_what_they_say(case: Case):
    modules, objective = _made(case)
    batch = random_batch(case, objective.inputs(), 4)
    samples = objective.samples(modules, batch, 2)
    again = objective.samples(modules, batch, 2)
    if case.objective.kind in ("causal_lm", "ctc", "forecasting", "reconstruction", "adversarial"):
        assert samples
    for sample, same in zip(samples, again, strict=True):
        assert (sample.data == same.data).all()
        if sample.kind == "text":
            assert sample.data.ndim == 1
            numbers = case.config.outputs if case.objective.kind == "ctc" else case.config.vocabulary
            if case.objective.kind == "sequence_to_sequence" and not sample.read:
                numbers = case.config.written_tokens
            assert ((sample.data >= 0) & (sample.data < numbers)).all()
        elif sample.kind == "image":
            assert sample.data.ndim == 3
            assert sample.data.shape[2] in (1, 3)
            assert 0 <= sample.data.min() <= sample.data.max() <= 1
        else:
            assert sample.data.shape[0] == len(sample.lines)


def test_a_family_refuses_anothers_objective():
    with pytest.raises(
        SpecError, match="family mlp can't be trained with causal_lm; it can with classification"
    ):
        build_objective(MlpConfig(in_features=2, outputs=2), CausalLmConfig())


def test_a_language_model_must_not_look_ahead():
    with pytest.raises(SpecError, match="bidirectional"):
        build_objective(LstmConfig(vocabulary=5, bidirectional=True), CausalLmConfig())


def test_numbers_that_are_not_there_count_nothing_and_give_no_gradient():
    config = MlpConfig(size="debug", in_features=5, outputs=2)
    objective = build_objective(config, RegressionConfig(missing_labels=True))
    modules = build_modules(config, RegressionConfig())
    features, label = torch.randn(3, 5), torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [2.0, 3.0]])
    predicted = modules["model"](features)
    there = ~label.isnan()
    ((predicted - label)[there] ** 2).sum().backward()
    wanted = [parameter.grad.clone() for parameter in modules["model"].parameters()]
    modules["model"].zero_grad()
    batch = {"features": features, "label": label, "weight": torch.ones(3)}
    sums = objective.loss("model", modules, batch)
    sums.loss.backward()
    assert sums.count == objective.units("model", batch) == there.sum() == 3
    assert sums.loss.item() == pytest.approx(((predicted - label)[there] ** 2).sum().item())
    for parameter, gradient in zip(modules["model"].parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_labels_that_are_not_there_count_nothing_and_give_no_gradient(gamma: float):
    config = MlpConfig(size="debug", in_features=5, outputs=2)
    weighed = MultilabelConfig(positive_weight=3.0, focal_gamma=gamma, missing_labels=True)
    objective = build_objective(config, weighed)
    whole = build_objective(config, weighed.model_copy(update={"missing_labels": False}))
    modules = build_modules(config, weighed)
    features = torch.randn(3, 5)
    label = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [0.0, 1.0]])
    batch = {"features": features, "label": label, "weight": torch.ones(3)}
    sums = objective.loss("model", modules, batch)
    sums.loss.backward()
    got = [parameter.grad.clone() for parameter in modules["model"].parameters()]
    modules["model"].zero_grad()
    assert sums.count == objective.units("model", batch) == 3
    assert objective.units_per_sample is None and whole.units_per_sample == 2
    alone = {
        "features": features[[0, 2]],
        "label": label[[0, 2]].nan_to_num(0).long(),
        "weight": torch.ones(2),
    }
    of_all = whole.loss("model", modules, alone).loss
    of_one = objective.loss(
        "model",
        modules,
        {"features": features[:1], "label": torch.tensor([[torch.nan, 0.0]]), "weight": torch.ones(1)},
    )
    (of_all - of_one.loss).backward()
    assert sums.loss.item() == pytest.approx((of_all - of_one.loss).item(), rel=1e-5)
    for parameter, gradient in zip(modules["model"].parameters(), got, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_wasserstein_needs_a_bound():
    with pytest.raises(SpecError, match="gradient_penalty"):
        build_objective(GanConfig(channels=1, image_size=8), AdversarialConfig(loss="wasserstein"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": torch.tensor([0, 3])}, "'label' holds 3, but its values must be from 0 to 2"),
        ({"label": torch.tensor([0, -1])}, "'label' holds -1"),
        ({"label": torch.tensor([0.0, 1.0])}, "'label' holds torch.float32 values, but the model takes ints"),
        ({"features": torch.zeros(2, 4)}, r"'features' has shape \(4\), but the model takes \(5\)"),
        ({"features": None}, "needs a tensor 'features', the data has label"),
    ],
)
def test_a_wrong_batch_is_refused_with_a_sentence(changed: dict[str, Tensor], message: str):
    case = CASES[0]
    _, objective = _made(case)
    batch = {**random_batch(case, objective.inputs(), 2), **changed}
    batch = {name: tensor for name, tensor in batch.items() if tensor is not None}
    with pytest.raises(DataError, match=message):
        check_batch(batch, objective.inputs())


def test_a_sequence_longer_than_the_context_is_refused():
    case = CASES[IDS.index("gpt")]
    _, objective = _made(case)
    with pytest.raises(DataError, match="is 14 long, but the model takes at most 13"):
        check_batch({"tokens": torch.zeros(2, 14, dtype=torch.int64)}, objective.inputs())
