"""Adapters train here as by peft in a plain loop, under any strategy, and leave as peft reads them or merged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
import torch.nn.functional as F
from ranks_fixture import Pools, pools
from torch import nn

from orchestrator import checkpoint, loop, strategies
from orchestrator.checkpoint.export import export, load_modules
from orchestrator.checkpoint.start import ADAPTERS, Start, build_start, meta_of
from orchestrator.checkpoint.weights import weights_at
from orchestrator.errors import SpecError
from orchestrator.fitting.simulate import simulate
from orchestrator.models import adapters, build_modules, build_objective
from orchestrator.models.configs import (
    AdversarialConfig,
    CausalLmConfig,
    ClassificationConfig,
    CustomConfig,
    FamilyConfig,
    GanConfig,
    GptConfig,
    HuggingFaceConfig,
    InputTensor,
    LoraSpec,
    with_architecture,
)
from orchestrator.models.huggingface import save_huggingface
from orchestrator.models.initialize import load_weights
from orchestrator.models.looked_at import try_out
from orchestrator.models.sizes import count
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank
from orchestrator.spec.job import InitializeSpec
from orchestrator.spec.training import EmaSpec
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
__all__ = ["pools"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning"
)  # of peft and transformers

BATCH, STEPS, TOKENS, VOCABULARY, RATE = 8, 20, 12, 61, 0.2
CAUSAL = CausalLmConfig()
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}
_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GPT2 = {
    "vocab_size": VOCABULARY, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
    "eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_OWN = GptConfig(
    vocabulary=VOCABULARY, context=TOKENS, layers=2, heads=4, width=32, positions="rotary", norm="rms",
    feedforward="swiglu", bias=False, tied_embeddings=False, dropout=0.0,
)  # fmt: skip
TARGETS = {
    "llama": ("*q_proj", "*v_proj"),
    "gpt2": ("*c_attn", "*mlp.c_proj"),
    "gpt": ("*query_key_value", "*expand"),
}


@lru_cache
def written(name: str) -> str:
    """Folder with a random model."""
    folder = tempfile.mkdtemp(prefix="adapters-")
    torch.manual_seed(0)
    if name == "gpt":
        save_huggingface(folder, _OWN, build_modules(_OWN, CAUSAL))
    else:
        fields = _LLAMA if name == "llama" else _GPT2
        config = transformers.AutoConfig.for_model(name, **fields)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def config_of(name: str, folder: str) -> FamilyConfig:
    if name == "gpt":
        return _OWN
    asked = HuggingFaceConfig(
        architecture=folder, context=TOKENS, inputs={"tokens": InputTensor(shape=(None,), kind="int")}
    )
    return with_architecture(asked, "/")


def spec_of(name: str, folder: str) -> InitializeSpec:
    return InitializeSpec(weights=folder, lora=LoraSpec(rank=4, alpha=8, targets=TARGETS[name]))


def plan_for(world_size: int, strategy: dict[str, Any], name: str, folder: str) -> Plan:
    optimizer = {"kind": "sgd", "learning_rate": RATE, "momentum": 0.9, "weight_decay": 0.0}
    plan = small_plan(
        world_size,
        strategy=strategy,
        training={
            "max_steps": 100,
            "global_batch_size": BATCH,
            "optimizer": optimizer,
            "schedule": {"kind": "constant"},
            "clip_grad_norm": None,
        },
        micro_batch_size=BATCH // world_size // 2,
        parameters=1000,
        checkpoint_every=100,
    )
    return plan.model_copy(update={"job": plan.job.model_copy(update={"initialize": spec_of(name, folder)})})


def batch_of(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "sample_seed": torch.randint(0, 2**62, (BATCH,), generator=generator),
        "tokens": torch.randint(4, VOCABULARY, (BATCH, TOKENS + 1), generator=generator),
    }


def started(name: str, folder: str) -> Start:
    return build_start(config_of(name, folder), CAUSAL, spec_of(name, folder), base_dir="/", seed=0)


def train(
    plan: Plan, name: str, folder: str, steps: int = STEPS, root: str | None = None, resume: int = 0
) -> toys.Run:
    """Train on this rank, from a step of ``root`` where one is given; else save the end into it."""
    torch.set_num_threads(1)
    begun, config = started(name, folder), config_of(name, folder)
    objective = build_objective(config, CAUSAL)
    engine = strategies.prepare(plan, begun.modules, objective, torch.device("cpu"), begun.values)
    if resume:
        Rank(plan, objective, engine, base=begun.base).load(
            checkpoint.checkpoint_at(f"{root}/step-{resume:08d}.attempt-1")
        )
    around = RecordingSurroundings(stop_at=steps)
    batches = (batch_of(step) for step in range(resume, steps))
    loop.train(plan, engine, objective, steps_of(batches, plan), around, resume)
    with toys.checkpoints_in(None if resume else root) as checkpoints:
        if checkpoints:
            meta = {
                "scalars": engine.scalars(),
                "model": config.model_dump(mode="json"),
                ADAPTERS: meta_of(spec_of(name, folder), base_dir="/", seed=0, base=begun.base),
            }
            checkpoints.save(steps, engine.state(), meta, asynchronous=False)
    run = toys.run_of(engine, around)
    engine.close()
    return run


def plain_base(name: str, folder: str) -> nn.Module:
    """The model that a person would give to peft."""
    if name != "gpt":
        model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder)
        return model
    modules = build_modules(_OWN, CAUSAL)
    load_weights(modules, folder, config=_OWN)
    return modules["model"]


def logits_of(name: str, model: Any, tokens: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(tokens) if name == "gpt" else model(input_ids=tokens).logits
    return logits


def first_adapters(name: str, folder: str) -> dict[str, torch.Tensor]:
    begun = started(name, folder)
    return {
        path.removeprefix("network."): adapters.value_of(parameter, begun.values)
        for path, parameter in begun.modules["model"].named_parameters()
        if adapters.is_adapter(path)
    }


@lru_cache
def plain(name: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and adapters of a loop of torch and peft alone, from the same first adapters."""
    return plain_with(name, lambda trained: torch.optim.SGD(trained, lr=RATE, momentum=0.9))


def plain_with(
    name: str, make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same by another optimizer."""
    torch.set_num_threads(1)
    folder = written(name)
    model = peft.get_peft_model(
        plain_base(name, folder),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=[one[1:] for one in TARGETS[name]]),
    ).train()
    trained = {path: p for path, p in model.named_parameters() if p.requires_grad}
    first = first_adapters(name, folder)
    assert {path.removeprefix("base_model.model.") for path in trained} == set(first)
    with torch.no_grad():
        for path, parameter in trained.items():
            parameter.copy_(first[path.removeprefix("base_model.model.")])
    optimizer = make_optimizer(list(trained.values()))
    losses = []
    for step in range(STEPS):
        tokens = batch_of(step)["tokens"]
        loss = F.cross_entropy(logits_of(name, model, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {path.removeprefix("base_model.model."): p.detach() for path, p in trained.items()}


def differences(runs: list[toys.Run], name: str) -> tuple[float, float]:
    """The largest of the losses', and of the adapters', which are all that is kept."""
    losses, expected = plain(name)
    got = {
        path.removeprefix("model/").removeprefix("network."): tensor
        for (kind, path), tensor in toys.assembled(runs).items()
        if kind == "parameter"
    }
    assert got.keys() == expected.keys()
    apart = [(tensor - expected[path].flatten()).abs().max().item() for path, tensor in got.items()]
    moved = [p.abs().max().item() for path, p in expected.items() if ".lora_B." in path]
    assert min(moved) > 1e-3, "an adapter that did not learn proves nothing"
    return max(abs(a - b) for a, b in zip(runs[0].losses, losses, strict=True)), max(apart)


@pytest.mark.parametrize("name", TARGETS)
def test_one_worker_trains_as_peft_in_a_plain_loop(name: str) -> None:
    folder = written(name)
    of_losses, of_adapters = differences(
        [train(plan_for(1, {"kind": "ddp"}, name, folder), name, folder)], name
    )
    assert of_losses <= 1e-5 and of_adapters <= 1e-5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name", [*(one for one in TARGETS if one != "gpt2"), pytest.param("gpt2", marks=pytest.mark.slow)]
)
def test_two_workers_train_as_peft_in_a_plain_loop(pools: Pools, name: str, strategy: str) -> None:
    folder = written(name)
    runs = pools.run(2, train, plan_for(2, STRATEGIES[strategy], name, folder), name, folder)
    of_losses, of_adapters = differences(runs, name)
    assert of_losses <= 1e-5 and of_adapters <= 1e-5


@pytest.mark.parametrize(
    ("saves", "resumes"), [("ddp", "zero3"), ("zero3", "fsdp"), ("fsdp", "zero1"), ("zero2", "ddp")]
)
def test_a_run_goes_on_from_its_adapters_under_another_strategy(
    pools: Pools, saves: str, resumes: str, tmp_path: Path
) -> None:
    name, folder, root = "llama", written("llama"), str(tmp_path)
    pools.run(2, train, plan_for(2, STRATEGIES[saves], name, folder), name, folder, 10, root)
    kept = checkpoint.checkpoint_at(f"{root}/step-00000010.attempt-1")
    with checkpoint.open_reader(kept) as reader:
        names = {path for _, path in reader.tensors()}
    assert names and all(adapters.is_adapter(path) for path in names)
    runs = pools.run(2, train, plan_for(2, STRATEGIES[resumes], name, folder), name, folder, STEPS, root, 10)
    expected, _ = plain(name)
    torch.testing.assert_close(torch.tensor(runs[0].losses), torch.tensor(expected[10:]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_averages_of_adapters_are_merged_too(pools: Pools, strategy: str, tmp_path: Path) -> None:
    name, folder = "llama", written("llama")
    made = []
    for ranks, kind, root in ((1, "ddp", "one"), (2, strategy, "two")):
        plan = plan_for(ranks, STRATEGIES[kind], name, folder)
        training = plan.job.training.model_copy(update={"ema": EmaSpec(decay=0.9)})
        plan = plan.model_copy(update={"job": plan.job.model_copy(update={"training": training})})
        pools.run(ranks, train, plan, name, folder, STEPS, str(tmp_path / root))
        saved = checkpoint.checkpoint_at(str(tmp_path / root / f"step-{STEPS:08d}.attempt-1"))
        modules = (
            load_modules(saved, config_of(name, folder), CAUSAL, averaged=which) for which in (True, False)
        )
        weights = (
            one["model"].get_parameter("network.model.layers.0.self_attn.q_proj.weight") for one in modules
        )
        made.append(list(weights))
    (average, last), (other_average, _) = made
    torch.testing.assert_close(other_average, average, rtol=0, atol=1e-5)
    assert (average - last).abs().max() > 1e-4


@pytest.fixture
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, checkpoint.Checkpoint]:
    name = request.param
    train(
        plan_for(1, {"kind": "ddp"}, name, written(name)), name, written(name), STEPS, str(tmp_path / "kept")
    )
    return name, checkpoint.checkpoint_at(str(tmp_path / "kept" / f"step-{STEPS:08d}.attempt-1"))


@pytest.mark.parametrize("trained", TARGETS, indirect=True)
def test_adapters_leave_as_peft_loads_them_and_merged(
    trained: tuple[str, checkpoint.Checkpoint], tmp_path: Path
) -> None:
    (name, saved), folder = trained, tmp_path / "out"
    config = config_of(name, written(name))
    export(saved, folder, config, CAUSAL, "peft")
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = peft.PeftModel.from_pretrained(plain_base(name, written(name)), str(folder)).eval()
    tokens = batch_of(0)["tokens"][:, :-1]
    with torch.no_grad():
        expected = logits_of(name, loaded, tokens)
        got = load_modules(saved, config, CAUSAL)["model"](tokens)
        base = logits_of(name, plain_base(name, written(name)).eval(), tokens)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - base).abs().max() > 1e-2

    export(saved, tmp_path / "merged", config, CAUSAL, "safetensors")
    again = build_modules(config, CAUSAL)
    load_weights(again, str(tmp_path / "merged"), config=config)
    with torch.no_grad():
        torch.testing.assert_close(again["model"].eval()(tokens), got, rtol=0, atol=0)


@pytest.mark.parametrize("trained", ["llama"], indirect=True)
def test_another_base_is_refused(trained: tuple[str, checkpoint.Checkpoint], tmp_path: Path) -> None:
    name, saved = trained
    other = transformers.AutoModelForCausalLM.from_pretrained(written(name))
    with torch.no_grad():
        other.model.norm.weight[0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    folder = str(tmp_path / "other")
    with pytest.raises(SpecError, match="are not those that the adapters of step 20 were trained beside"):
        train(plan_for(1, {"kind": "ddp"}, name, folder), name, folder, 30, str(tmp_path / "kept"), STEPS)
    with pytest.raises(SpecError, match="holds adapters only"):
        weights_at(saved.path)


def build_classifier() -> nn.Module:
    """With one layer whose weight is taken without calling it."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.encoder = nn.TransformerEncoderLayer(4, 2)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.head(F.linear(self.first(features), self.second.weight))

    return Classifier()


OWN = CustomConfig(
    factory="test_adapters:build_classifier",
    outputs=3,
    inputs={"features": InputTensor(shape=(4,), kind="float")},
)


@pytest.mark.parametrize(
    ("lora", "problem"),
    [
        (
            {"targets": ("*q_proj",)},
            r"'\*q_proj' matches no layer; linear layers.*are \*first, \*second, \*head",
        ),
        ({"targets": ("encoder",)}, r"matches only encoder \(TransformerEncoderLayer\)"),
        ({"targets": ("*linear1",)}, "takes its weight without calling it; leave it out"),
        (
            {"targets": ("first",), "also_train": ("nose*",)},
            r"no parameter matches 'nose\*'; names are like first",
        ),
        (
            {"targets": ("first",), "also_train": ("first.weight",)},
            "first.weight is of a layer that has an adapter",
        ),
    ],
)
def test_adapters_that_find_no_place_are_refused(lora: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        build_start(OWN, ClassificationConfig(), InitializeSpec(lora=LoraSpec(**lora)), base_dir="/", seed=0)


def test_an_adapter_that_forward_would_not_call_is_refused() -> None:
    """Its matrices would never learn, and nobody would be told."""
    lora = LoraSpec(rank=2, targets=("first", "second"))
    with pytest.raises(SpecError, match="takes the weight of second without calling the layer"):
        try_out(OWN.model_copy(update={"deferred": True}), ClassificationConfig(), lora)
    counts = try_out(OWN, ClassificationConfig(), lora.model_copy(update={"targets": ("first",)})).counts
    assert counts.beside == 2 * (4 + 4)


def test_a_model_of_several_modules_is_refused() -> None:
    config = GanConfig(size="debug", channels=1, image_size=8)
    with pytest.raises(SpecError, match="adapters are for models of one module, and this one has"):
        count(config, AdversarialConfig(), LoraSpec(targets=("*",)))


def test_what_adapters_cost_is_counted_and_predicted() -> None:
    whole, beside = count(_OWN, CAUSAL), count(_OWN, CAUSAL, LoraSpec(rank=4, targets=TARGETS["gpt"]))
    width, hidden, layers = 32, 2 * round(32 * _OWN.feedforward_ratio), 2
    assert beside.beside == layers * 4 * ((width + 3 * width) + (width + hidden))
    assert beside.parameters == whole.parameters + beside.beside
    assert 0.6 * whole.flops_per_sample < beside.flops_per_sample < 0.9 * whole.flops_per_sample
    plan = plan_for(2, {"kind": "fsdp"}, "gpt", "/nowhere")
    model = {"model": _OWN, "objective": CAUSAL}
    peak = simulate(plan.model_copy(update={"job": plan.job.model_copy(update=model)}))
    assert 0 < peak.moments <= 4 * beside.beside


def test_a_layer_that_shares_its_weight_is_refused() -> None:
    config, start = config_of("gpt2", written("gpt2")), InitializeSpec(lora=LoraSpec(targets=("*lm_head",)))
    with pytest.raises(SpecError, match=r"network\.lm_head shares its weight with network\.transformer\.wte"):
        build_start(config, CAUSAL, start, base_dir="/", seed=0)


def test_a_new_head_is_trained_whole_or_refused(tmp_path: Path) -> None:
    body = {"first.weight": torch.ones(4, 4), "first.bias": torch.ones(4)}
    from safetensors.torch import save_file

    save_file(body, tmp_path / "body.safetensors")
    config = OWN.model_copy(update={"factory": "test_adapters:build_short"})
    given = {"weights": str(tmp_path / "body.safetensors"), "strict": False}
    objective = ClassificationConfig()
    refused = InitializeSpec(**given, lora=LoraSpec(targets=("first",)))
    with pytest.raises(
        SpecError, match=r"initialize.lora: head.bias found no weight and would stay as it was drawn"
    ):
        build_start(config, objective, refused, base_dir="/", seed=0)
    taken = InitializeSpec(**given, lora=LoraSpec(targets=("first",), also_train=("head.*",)))
    begun = build_start(config, objective, taken, base_dir="/", seed=0)
    names = [name for name, p in begun.modules["model"].named_parameters() if p.requires_grad]
    assert {"head.weight", "head.bias"} < set(names)
    assert not begun.modules["model"].get_parameter("first.base_layer.weight").requires_grad


def build_short() -> nn.Module:
    from collections import OrderedDict

    return nn.Sequential(OrderedDict(first=nn.Linear(4, 4), head=nn.Linear(4, 3)))
