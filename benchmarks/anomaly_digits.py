"""Does the autoencoder's anomaly score tell a class that it has never seen? Prints the AUROC for each held-out digit.

python benchmarks/anomaly_digits.py [--digits 9 1]
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np
import torch
from quick_train import all_rows, tensors, train, trained_modules
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from orchestrator import models


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", default="examples/autoencoder-anomaly.yaml")
    parser.add_argument("--digits", type=int, nargs="+", default=[9])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = {digit: auroc(given.job, digit, tuple(given.overrides)) for digit in given.digits}
    print(json.dumps({"job": given.job, "auroc": found}))


def auroc(job: str, digit: int, overrides: tuple[str, ...]) -> dict[str, float]:
    """Held-out normal digits against all of the unseen class; PCA of as many numbers beside it."""
    with tempfile.TemporaryDirectory() as folder:
        plan, prepared, _ = train(job, folder, (f"data.prepare.without=[{digit}]", *overrides))
        modules = trained_modules(plan)
        seen, normal = all_rows(plan, prepared, "train"), all_rows(plan, prepared, "eval")
    digits = load_digits()
    strange = digits.data[digits.target == digit].astype(np.float32) * 0.125 - 1.0
    features = np.concatenate([normal["features"], strange])
    is_strange = np.arange(len(features)) >= len(normal["features"])
    objective = models.build_objective(plan.job.model, plan.job.objective)
    ours = objective.scores(modules, tensors({"features": features})).numpy()
    pca = PCA(plan.job.model.latent).fit(seen["features"])
    theirs = ((pca.inverse_transform(pca.transform(features)) - features) ** 2).mean(axis=1)
    return {
        "autoencoder": float(roc_auc_score(is_strange, ours)),
        "pca": float(roc_auc_score(is_strange, theirs)),
    }


if __name__ == "__main__":
    main()
