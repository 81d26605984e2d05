"""What ``examples/solubility.yaml`` has to be measured against: regressions on what chemists describe a molecule by.

Run: ``PYTHONPATH=examples python benchmarks/solubility_baseline.py``, with the packages that ``examples/molecules.py`` names. Morgan
fingerprints (Rogers and Hahn 2010; radius 2, 2,048 bits) by ridge regression and by a random forest, over the recipe's own splits.
Prints R2 on the scaffolds that are held out, by the seed of the recipe.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection

import numpy as np
from molecules import hydration_energies, scaffold, solubilities
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from orchestrator.data.preparations.whole_groups import nearest_groups
from orchestrator.data.sources.split import held_out_rows

FRACTION = 0.2
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
SEEDS = 3


def scores(values: dict[str, float], apart: set[str], seed: int) -> dict[str, float]:
    """R2 of one measured quantity; of the ridge the best on the held-out molecules, an upper bound for it."""
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    smiles = sorted(values)
    bits = np.array([generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(one)) for one in smiles], dtype=float)
    target = np.array([values[one] for one in smiles])
    held = np.array([one in apart for one in smiles])
    fit, told = (bits[~held], target[~held]), (bits[held], target[held])
    ridge = max(r2_score(told[1], Ridge(alpha=strength).fit(*fit).predict(told[0])) for strength in STRENGTHS)
    forest = RandomForestRegressor(random_state=seed).fit(*fit)
    return {"ridge": float(ridge), "forest": float(r2_score(told[1], forest.predict(told[0])))}


def held_out(smiles: Collection[str], seed: int) -> set[str]:
    """The molecules that the recipe holds out with this seed."""
    group = {one: scaffold(one) for one in smiles}
    apart = set(nearest_groups(Counter(group.values()), held_out_rows(len(smiles), FRACTION), seed))
    return {one for one in smiles if group[one] in apart}


def main() -> None:
    measured = {"solubility": solubilities(), "hydration": hydration_energies()}
    every = set().union(*measured.values())
    found = [
        {name: scores(values, held_out(every, seed), seed) for name, values in measured.items()}
        for seed in range(SEEDS)
    ]
    mean = {
        model: float(np.mean([of[model] for run in found for of in run.values()]))
        for model in ("ridge", "forest")
    }
    print(json.dumps({"seeds": found, "mean": mean}, indent=2))


if __name__ == "__main__":
    main()
