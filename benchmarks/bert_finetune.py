"""Does masked training help the classifier? Trains bert-mlm, then bert-classify from its weights and from scratch.

    python benchmarks/bert_finetune.py

Prints the masked model's loss beside the corpus's unigram entropy, and the accuracy of both classifiers beside a
bag-of-words logistic regression on the same tokens of the same held-out texts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from baselines import baselines
from quick_train import train, trained_modules
from safetensors.torch import save_file

MLM, CLASSIFY = "examples/bert-mlm.yaml", "examples/bert-classify.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mlm-set", action="append", default=[])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        plan, prepared, masked = train(MLM, folder, tuple(given.mlm_set))
        weights, tokenizer = Path(folder) / "mlm.safetensors", Path(folder) / "tokenizer.json"
        model = trained_modules(plan)["model"]
        save_file({name: value.contiguous() for name, value in model.named_parameters()}, weights)
        tokenizer.write_text(prepared.preparation["tokenizer"])
        same = (f"data.prepare.tokenizer={{kind: file, path: {tokenizer}}}",)
        start = (f"initialize.weights={weights}", "initialize.strict=false")
        found = {
            "masked_loss": masked["metrics"]["val/loss"],
            "masked_baselines": baselines(MLM),
            "classify_from_masked": train(CLASSIFY, folder, (*same, *start))[2]["metrics"],
            "classify_from_scratch": train(CLASSIFY, folder, same)[2]["metrics"],
            "classify_baselines": baselines(CLASSIFY, overrides=same),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
