"""What is a molecule in SMILES and what is none, beside RDKit, and what a job says of it."""

import json
import random
import sys

import pyarrow as pa
import pytest
from data_jobs import job_of

from orchestrator.data.preparations.smiles import grammar_fault, smiles_faults
from orchestrator.data.preparations.tokenizers import CLASSIFY, PAD, UNKNOWN, train_smiles
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.serving import Inputs
from orchestrator.errors import DataError, SpecError
from orchestrator.spec.preparations import SmilesTokenizer, Tokenize

MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[C@H](N)C(=O)[O-].[Na+]",
    "F/C=C/F",
    "[2H]C([2H])([2H])Cl",
    "C%12CCCC%12Br",
    "N#Cc1ccc(-c2cc[nH]c2)cc1",
    "[Cu+2].[O-]S(=O)(=O)[O-]",
    "C1CC2(C1)CCC(C2)C1CC1",
    "[NH3]->[Pt](Cl)(Cl)<-[NH3]",
    "[13CH3:1]c1cs[te]1",
    "C(CC1)C(O)1",
]
WRONG = {
    "": "is empty",
    "C1CC": "opens ring 1 and does not close it",
    "C(C(C)C": "opens '(' at character 2 and does not close it",
    "CC)C": "has a ')' that closes nothing at character 3",
    "C[NH4+": "opens '[' at character 2 and does not close it",
    "CC[Xx]": "has '[Xx]', which is no element, at character 3",
    "[CH@]": "has '[CH@]', which is written like no atom, at character 1",
    "CC=": "ends in '='",
    "C()C": "has ')' at character 3, where none can stand",
    "CRC": "has 'R' at character 2, which is no atom, bond, branch or ring",
    "CCO ethanol": "has white space at character 4; a name belongs in a column of its own",
    "C11": "closes ring 1 on the atom that opened it",
    "C1C1": "closes ring 1 between two atoms that are bonded already",
    "C=1CC#1": "opens ring 1 with '=' and closes it with '#'",
    "CC>O": "has 1 of the '>' of which a reaction has two",
    "CCO>>C=": "ends in '='",
}


@pytest.mark.parametrize("text", [*MOLECULES, "CCO>[Na+]>CC=O", "CC.O>>"])
def test_molecules_and_reactions_are_read(text):
    assert grammar_fault(text) is None


@pytest.mark.parametrize(("text", "fault"), WRONG.items())
def test_what_is_no_molecule_is_said_with_its_place(text, fault):
    assert (grammar_fault(text) or "").startswith(fault)
    assert smiles_faults(["C", text, None], SmilesTokenizer()) == {
        1: f"the SMILES {text!r} {grammar_fault(text)}"
    }


def test_the_grammar_is_that_of_rdkit():
    Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    from rdkit import rdBase

    rng, right, wrong = random.Random(0), 0, 0
    with rdBase.BlockLogs():
        for _ in range(3000):
            text = spoiled(rng)
            read = Chem.MolFromSmiles(text, sanitize=False) is not None
            # RDKit overlooks that a ring's bond has two kinds, and takes no '.' first in a branch, which the grammar has
            if (grammar_fault(text) is None) != read:
                assert "(." in text or "and closes it with" in (grammar_fault(text) or ""), text
            right, wrong = right + read, wrong + (not read)
    assert min(right, wrong) > 500


def spoiled(rng):
    """A molecule of which a character or two are gone, others, or too many."""
    text = list(rng.choice(MOLECULES))
    for _ in range(rng.choice((1, 2))):
        place, other = rng.randrange(len(text)), rng.choice("CNOcn()[]12=@H+-.%FB")
        text[place : place + rng.choice((0, 1, 1))] = rng.choice(([], [other]))
    return "".join(text) or "C"


def test_rdkit_is_asked_for_what_the_grammar_does_not_know():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    texts = ["c1ccccc1", "C(C)(C)(C)(C)C", "c1cccc1", "CCO>>CC=O", "C1"]
    assert not smiles_faults(texts[:4], SmilesTokenizer())
    found = smiles_faults(texts, SmilesTokenizer(check="rdkit"))
    assert list(found) == [1, 2, 4]
    assert "valence for atom # 0 C, 5, is greater than permitted" in found[1]
    assert "is no molecule to RDKit; Can't kekulize" in found[2]


def test_rdkit_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(SpecError, match=r"RDKit, which is not installed; install trainwright\[molecules\]"):
        smiles_faults(["C"], SmilesTokenizer(check="rdkit"))


JOBS = {
    "tokenize": ({"column": "text", "label": "kind"}, "classification", ("tokens",)),
    "pairs": ({"source": "text", "target": "text"}, "sequence_to_sequence", ("tokens", "target")),
    "pack": ({"column": "text"}, "causal_lm", ("tokens",)),
}


def of_molecules(folder, kind, texts, **more):
    (folder / "molecules.jsonl").write_text(
        "".join(json.dumps({"text": text, "kind": len(text) % 2}) + "\n" for text in texts)
    )
    columns, objective, tensors = JOBS[kind]
    return job_of(
        {
            "train": {"kind": "jsonl", "path": str(folder / "molecules.jsonl")},
            "prepare": {"kind": kind, "tokenizer": {"kind": "smiles"}, "context": 5, **columns},
            **more,
        },
        family="custom",
        model={"family": "custom", "factory": "any:thing", "inputs": {name: {} for name in tensors}},
        objective={"kind": objective},
        batch=2,
    )


@pytest.mark.parametrize("kind", JOBS)
def test_a_text_that_is_no_molecule_is_said_with_file_and_row_and_can_be_skipped(kind, tmp_path):
    texts = ["CCO", "CCN", "C1CC", "CCC", "CO", "CN"]
    fault = r"molecules\.jsonl, row 2: column 'text': the SMILES 'C1CC' opens ring 1 and does not close it; mend it"
    with pytest.raises(DataError, match=fault):
        prepare_job(of_molecules(tmp_path, kind, texts), str(tmp_path), str(tmp_path / "cache"))
    skipping = of_molecules(tmp_path, kind, texts, skip_bad_samples=1)
    made = prepare_job(skipping, str(tmp_path), str(tmp_path / "cache"))
    assert any("1 of 6 training rows" in note for note in made.notes)
    assert made.train_samples == {"pack": 3}.get(kind, 5)


def test_a_blank_text_is_no_molecule(tmp_path):
    with pytest.raises(DataError, match=r"row 1: column 'text': the SMILES '' is empty"):
        prepare_job(of_molecules(tmp_path, "tokenize", ["C", ""]), str(tmp_path), str(tmp_path / "cache"))


def test_a_model_is_asked_about_molecules_alone():
    tokenizer = train_smiles(["CCO"], [PAD, UNKNOWN, CLASSIFY])
    section = Tokenize(column="text", tokenizer=SmilesTokenizer(), context=8)
    inputs = Inputs(prepare=section, learned={"tokenizer": tokenizer.to_json()})
    assert inputs.tensors(pa.table({"text": ["CO", "OC"]}))["length"].tolist() == [3, 3]
    with pytest.raises(DataError, match=r"^row 1: the SMILES 'C\(O' opens '\(' at character 2"):
        inputs.tensors(pa.table({"text": ["CO", "C(O"]}))
