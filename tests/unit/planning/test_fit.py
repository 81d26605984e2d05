"""What can't be had together is refused with both names; what is merely tight is said."""

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning.fit import check_fit, memory_warning
from orchestrator.planning.plan import MemoryEstimate
from orchestrator.spec.job import JobSpec
from orchestrator.spec.scaling import ScalingSpec

GPU = {"gpus_per_worker": 1}
PENALIZED = {
    "model": {"family": "gan"},
    "objective": {"kind": "adversarial", "loss": "wasserstein", "gradient_penalty": 10},
}
ON_NVME = {"kind": "zero", "stage": 3, "offload": {"parameters": "nvme", "nvme_path": "/disk"}}


def job(**sections):
    return JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp"},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            **sections,
            "training": {"max_steps": 1, **sections.get("training", {})},
        }
    )


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"training": {"precision": "fp16"}}, "training.precision: fp16 needs a GPU"),
        ({"scaling": {"accelerator_type": "H100"}}, "scaling.gpus_per_worker is 0"),
        ({"strategy": ON_NVME}, "keeps parameters on nvme in 16 bits"),
        ({"strategy": {"kind": "zero", "stage": 3, "quantized_weights": True}}, "quantizes on GPUs only"),
        (
            {"strategy": {"kind": "zero", "stage": 3, "quantized_gradients": True}},
            "strategy.quantized_gradients",
        ),
        (
            {**PENALIZED, "training": {"recomputation": "selective"}},
            "training.recomputation: selective keeps products that can't be differentiated twice",
        ),
        (
            {**PENALIZED, "training": {"compile": True}},
            "training.compile: compiled blocks can't be differentiated twice",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(sections, says):
    with pytest.raises(SpecError) as refused:
        check_fit(job(**sections))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"precision": "fp16"}, "scaling": GPU},
        {"training": {"precision": "bf16"}},
        {"scaling": {"accelerator_type": "H100", **GPU}},
        {"strategy": ON_NVME, "training": {"precision": "bf16"}},
        {"strategy": {**ON_NVME, "offload": {"parameters": "cpu"}}},
        {"strategy": {"kind": "zero"}},
        {**PENALIZED, "training": {"recomputation": "blocks"}},
        {
            "strategy": {"kind": "zero", "stage": 3},
            "training": {"compile": True, "recomputation": "selective"},
        },
        {"strategy": {"kind": "zero", "stage": 3, "quantized_weights": True}, "scaling": GPU},
        {"strategy": {"kind": "ddp"}, "training": {"compile": True}},
        {"strategy": {"kind": "fsdp"}, "training": {"compile": True}},
    ],
)
def test_what_goes_together_is_taken(sections):
    check_fit(job(**sections))


@pytest.mark.parametrize(
    ("scaling", "is_said"),
    [
        ({}, False),
        ({"memory_per_worker": 9_999}, True),
        ({"memory_per_worker": 10_000}, False),
        ({"memory_per_worker": 9_999, **GPU}, False),
    ],
)
def test_too_little_memory_is_said(scaling, is_said):
    memory = MemoryEstimate(parameters=1000, gradients=2000, optimizer=3000, activations=4000)
    warning = memory_warning(ScalingSpec(**scaling), memory)
    assert (warning is not None) == is_said
    if warning:
        assert "need about 10KB a worker, but scaling.memory_per_worker is 10KB" in warning
