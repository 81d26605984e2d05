"""More tokens than the weights have: their rows are kept."""

import pytest
import torch

from orchestrator.checkpoint.start import build_start
from orchestrator.errors import SpecError
from orchestrator.models import build_modules
from orchestrator.models.configs import (
    CausalLmConfig,
    GptConfig,
    HuggingFaceConfig,
    InputTensor,
    with_architecture,
)
from orchestrator.models.huggingface import save_huggingface
from orchestrator.spec.job import InitializeSpec

KIND = CausalLmConfig()
GPT = GptConfig(vocabulary=11, context=8, layers=1, heads=2, width=8, dropout=0.0)


def llama(folder, **fields):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "llama", vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, max_position_embeddings=8, bos_token_id=1, eos_token_id=2, **fields,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    inputs = {"tokens": InputTensor(shape=(None,), kind="int")}
    return with_architecture(HuggingFaceConfig(architecture=str(folder), context=8, inputs=inputs), "/")


@pytest.mark.parametrize("name", ["gpt", "gpt-untied", "llama", "llama-tied"])
def test_rows_are_kept_and_new_ones_are_their_mean(name, tmp_path):
    if name.startswith("gpt"):
        small = GPT.model_copy(update={"tied_embeddings": name == "gpt"})
        torch.manual_seed(0)
        save_huggingface(str(tmp_path), small, build_modules(small, KIND))
    else:
        small = llama(tmp_path, tie_word_embeddings=name == "llama-tied")
    large = small.model_copy(update={"vocabulary": 14})
    grown = 0
    for (path, old), (_, new) in zip(*(values_of(small, large, tmp_path)), strict=True):
        if new.shape != old.shape:
            grown += 1
            assert torch.equal(new[:11], old) and len(new) == 14, path
            torch.testing.assert_close(new[11:], old.mean(0, keepdim=True).expand(3, -1))
        else:
            assert torch.equal(new, old), path
    assert grown == (1 if name in ("gpt", "llama-tied") else 2)


def values_of(small, large, folder):
    for config in (small, large):
        start = InitializeSpec(weights=str(folder), grow_vocabulary=config is large)
        begun = build_start(config, KIND, start, base_dir="/", seed=0)
        assert begun.report.is_complete and begun.values is not None
        yield [(path, begun.values.of(p)) for path, p in begun.modules["model"].named_parameters()]


def test_growth_has_to_be_asked_for_and_is_none_backwards(tmp_path):
    torch.manual_seed(0)
    save_huggingface(str(tmp_path), GPT, build_modules(GPT, KIND))
    large, less = (GPT.model_copy(update={"vocabulary": size}) for size in (14, 9))
    with pytest.raises(SpecError, match="vocabulary is 11 there and 14 here"):
        build_start(large, KIND, InitializeSpec(weights=str(tmp_path)), base_dir="/", seed=0)
    asked = InitializeSpec(weights=str(tmp_path), grow_vocabulary=True)
    with pytest.raises(
        SpecError, match=r"has 11 tokens and the model 9; set model\.vocabulary to 11 or more"
    ):
        build_start(less, KIND, asked, base_dir="/", seed=0)
    with pytest.raises(ValueError, match="new rows would never be trained"):
        InitializeSpec(grow_vocabulary=True, lora={"targets": ["*"]})
