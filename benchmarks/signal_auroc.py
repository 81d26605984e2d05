"""How well the one-dimensional network ranks the moments before a spike: AUROC on the held-out time, and that of a
logistic regression on the same readings.

    python benchmarks/signal_auroc.py
"""

from __future__ import annotations

import argparse
import json
import tempfile

import torch
from baselines import classification
from quick_train import all_rows, tensors, train, trained_modules
from sklearn.metrics import roc_auc_score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", default="examples/cnn-spikes.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        plan, prepared, outcome = train(given.job, folder, tuple(given.overrides))
        model = trained_modules(plan)["model"]
    seen, held_out = all_rows(plan, prepared, "train"), all_rows(plan, prepared, "eval")
    with torch.no_grad():
        score = model(tensors(held_out)["signal"]).flatten().numpy()
    found = {"auroc": float(roc_auc_score(held_out["label"], score)), **outcome["metrics"]}
    print(json.dumps({**found, **classification(seen, held_out, None)}))


if __name__ == "__main__":
    main()
