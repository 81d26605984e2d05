"""Drawing text from GPT: seconds a token where the model remembers what it has read, and where it reads a whole context.

Run: ``python benchmarks/text_samples.py [--size 124m] [--context 1024] [--texts 4] [--tokens 128]``, on a GPU where there
is one, in bf16 there. Reading a whole context for each token is measured on ``--slow-tokens`` only.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models import build_modules
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.objectives.generation import continued

VOCABULARY, PROMPT = 50_304, 16


class WholeContext(nn.Module):
    """Reads a context filled up, and gives the logits of all its positions up to the last real one."""

    def __init__(self, model: nn.Module, context: int) -> None:
        super().__init__()
        self.model, self.context = model, context

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length = tokens_BT.shape[1]
        return self.model(F.pad(tokens_BT, (0, self.context - length)))[:, :length]


def seconds_a_token(model: nn.Module, context: int, texts: int, tokens: int, device: torch.device) -> float:
    """Of all texts together, the prompt's share with it."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, VOCABULARY, (texts, PROMPT), generator=generator).to(device)
    chance = torch.rand(texts, tokens, generator=generator).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        continued(model, prompt, chance[:, :2], context=context)  # warm
        begun = time.perf_counter()
        continued(model, prompt, chance, context=context).cpu()
    return (time.perf_counter() - begun) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="124m")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--slow-tokens", type=int, default=2)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = GptConfig(size=chosen.size, context=chosen.context, vocabulary=VOCABULARY, dropout=0.0)
    model = build_modules(config, CausalLmConfig())["model"].eval().to(device)
    slow = seconds_a_token(
        WholeContext(model, chosen.context), chosen.context, chosen.texts, chosen.slow_tokens, device
    )
    fast = seconds_a_token(model, chosen.context, chosen.texts, chosen.tokens, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"gpt {chosen.size}, {chosen.texts} texts, context {chosen.context}, {name}")
    print("| | tokens/s | ms a token | ratio |\n|---|---|---|---|")
    for what, seconds in (("a whole context read for each token", slow), ("each token read once", fast)):
        print(f"| {what} | {chosen.texts / seconds:,.2f} | {1e3 * seconds:,.1f} | {slow / seconds:.1f} |")


if __name__ == "__main__":
    main()
