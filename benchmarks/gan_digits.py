"""Do the GAN's digits look like digits? A classifier trained on the real ones says which each is, and how sure it is.

    python benchmarks/gan_digits.py [--set training.max_steps=3000]

Prints the classifier's accuracy on held-out real digits, its mean confidence on real and on made digits, and the share
of each class among the made ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import numpy as np
import torch
from quick_train import all_rows, train, trained_modules
from sklearn.svm import SVC

from orchestrator.models.base import normal_from

MADE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", default="examples/gan-digits.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    labeled = "data.columns={image: image, label: label}"
    with tempfile.TemporaryDirectory() as folder:
        plan, prepared, _ = train(given.job, folder, (labeled, *given.overrides))
        generator = trained_modules(plan)["generator_ema"]
        real, held_out = all_rows(plan, prepared, "train"), all_rows(plan, prepared, "eval")
    with torch.no_grad():
        made = generator(normal_from(torch.arange(MADE), (plan.job.model.noise,), salt=1)).numpy()
    classifier = SVC(gamma="scale", C=10, probability=True, random_state=0).fit(
        _flat(real["image"]), real["label"]
    )
    chance = classifier.predict_proba(_flat(made))
    shares = np.bincount(classifier.predict(_flat(made)), minlength=10) / MADE
    print(
        json.dumps(
            {
                "classifier_accuracy_on_held_out": classifier.score(
                    _flat(held_out["image"]), held_out["label"]
                ),
                "confidence_on_held_out": float(
                    classifier.predict_proba(_flat(held_out["image"])).max(1).mean()
                ),
                "confidence_on_made": float(chance.max(1).mean()),
                "made_with_confidence_over_0.9": float((chance.max(1) > 0.9).mean()),
                "classes_over_1_percent": int((shares > 0.01).sum()),
                "shares": shares.tolist(),
            }
        )
    )


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


if __name__ == "__main__":
    main()
