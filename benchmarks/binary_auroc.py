"""How well a yes-or-no model ranks: AUROC on the held-out samples, and that of a logistic regression on the same inputs.

    python benchmarks/binary_auroc.py examples/cnn-spikes.yaml
    python benchmarks/binary_auroc.py examples/recommend-imports.yaml

Where the inputs are categories, the regression has one weight for each value of each; ``COLUMN_rate_auroc`` ranks by the
share of yes among the training samples of the column's value alone: how popular a thing is.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np
import torch
from baselines import classification
from quick_train import all_rows, tensors, train, trained_modules
from sklearn.metrics import roc_auc_score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        plan, prepared, outcome = train(given.job, folder, tuple(given.overrides))
        model = trained_modules(plan)["model"]
    seen, held_out = all_rows(plan, prepared, "train"), all_rows(plan, prepared, "eval")
    inputs = tensors(held_out)
    names = [name for name in plan.job.model.input_tensors(plan.job.objective) if name in inputs]
    with torch.no_grad():
        score = model(*(inputs[name] for name in names)).flatten().numpy()
    found = {"auroc": float(roc_auc_score(held_out["label"], score)), **outcome["metrics"]}
    if "categories" in names:
        found |= rates(seen, held_out, plan.job.data.columns["categories"])
    print(json.dumps({**found, **classification(seen, held_out, None)}))


def rates(seen: dict, held_out: dict, columns: tuple[str, ...]) -> dict[str, float]:
    """AUROC of the share of yes of each column's value."""
    found = {}
    for place, column in enumerate(columns):
        value = seen["categories"][:, place]
        size = 1 + max(value.max(), held_out["categories"][:, place].max())
        yes = np.bincount(value, weights=seen["label"], minlength=size)
        share = yes / np.maximum(np.bincount(value, minlength=size), 1)
        score = share[held_out["categories"][:, place]]
        found[f"{column}_rate_auroc"] = float(roc_auc_score(held_out["label"], score))
    return found


if __name__ == "__main__":
    main()
