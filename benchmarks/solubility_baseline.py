"""What ``examples/solubility.yaml`` has to be measured against: regressions on what chemists describe a molecule by.

Run: ``PYTHONPATH=examples python benchmarks/solubility_baseline.py``, with the packages that ``examples/molecules.py`` names. Morgan
fingerprints (Rogers and Hahn 2010; radius 2, 2,048 bits) by ridge regression and by a random forest, over the recipe's own split.
Prints R2 on the scaffolds that are held out.
"""

from __future__ import annotations

import json

import numpy as np
from molecules import held_out_of, hydration_energies, solubilities
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
SEEDS = 3


def scores(values: dict[str, float], apart: set[str]) -> dict[str, float]:
    """R2 of one measured quantity; of the ridge the best on the held-out molecules, an upper bound for it."""
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    smiles = sorted(values)
    bits = np.array([generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles], dtype=float)
    target = np.array([values[one] for one in smiles])
    held = np.array([one in apart for one in smiles])
    fit, told = (bits[~held], target[~held]), (bits[held], target[held])
    ridge = max(r2_score(told[1], Ridge(alpha=strength).fit(*fit).predict(told[0])) for strength in STRENGTHS)
    forests = [
        r2_score(told[1], RandomForestRegressor(random_state=seed).fit(*fit).predict(told[0]))
        for seed in range(SEEDS)
    ]
    return {"ridge": float(ridge), "forest": float(np.mean(forests)), "held_out": int(held.sum())}


def main() -> None:
    measured = {"solubility": solubilities(), "hydration": hydration_energies()}
    apart = held_out_of(set().union(*measured.values()))
    found = {name: scores(values, apart) for name, values in measured.items()}
    mean = {name: float(np.mean([found[kind][name] for kind in measured])) for name in ("ridge", "forest")}
    print(json.dumps({**found, "mean": mean}, indent=2))


if __name__ == "__main__":
    main()
