"""Whether a text is a molecule, or a reaction, in SMILES: by the grammar of OpenSMILES (opensmiles.org, 2016), and by RDKit where
that is asked for.

The grammar knows elements, brackets, bonds, branches and rings, and nothing of valences and aromaticity. What RDKit reads beside
it is taken too: dative bonds (``->``, ``<-``), ``~`` for any bond, and a ring's number behind a branch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from orchestrator.data.preparations.text_columns import named_column
from orchestrator.errors import SpecError
from orchestrator.spec.preparations import SmilesTokenizer, TokenizerSection

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru"
    " Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po"
    " At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
    " b c n o p s as se si te *"
)
"""The elements, those that may be aromatic in small letters, and any."""
_ELEMENTS = frozenset(_SYMBOLS.split())
_PART = re.compile(
    r"\[(?P<bracket>[^\[\]]*)\]|(?P<atom>Br|Cl|[BCNOPSFIbcnops*])|(?P<ring>%\(\d{1,5}\)|%\d\d|\d)"
    r"|(?P<bond>->|<-|[-=#$:~/\\])|(?P<open>\()|(?P<close>\))|(?P<dot>\.)"
)
_BRACKET = re.compile(
    r"\d*(?P<element>[A-Z][a-z]?|[a-z][a-z]?|\*)"
    r"(@(@|TH[12]|AL[12]|SP[123]|TB(1\d|20|[1-9])|OH([12]\d|30|[1-9]))?)?"
    r"(H\d*)?(\+\+|--|[+-]\d*)?(:\d+)?"
)
"""Isotope, element, chirality, hydrogens, charge, class."""
_REACTION = re.compile(r"(?<!-)>")
_ENDS = {"atom", "ring", "close"}
_BEFORE = {
    "atom": _ENDS | {"begin", "bond", "branch bond", "open", "dot"},
    "ring": _ENDS | {"bond"},
    "bond": _ENDS | {"open"},
    "open": _ENDS,
    "close": _ENDS,
    "dot": _ENDS | {"open"},
}
"""Each part, and what may stand before it."""
_SHOWN = 80


def bad_smiles(table: pa.Table, tokenizers: Mapping[str, TokenizerSection]) -> dict[int, str]:
    """Rows of a table whose text in one of some columns is to be SMILES and is none: number in the table -> what is wrong.

    Args:
        tokenizers: of each column; only those of SMILES say what a text must be.

    Raises:
        SpecError: RDKit is asked for and not installed.
    """
    found: dict[int, str] = {}
    for column, tokenizer in tokenizers.items():
        if isinstance(tokenizer, SmilesTokenizer):
            texts = named_column(table, column).to_pylist()
            for row, fault in smiles_faults(texts, tokenizer).items():
                found.setdefault(row, f"column {column!r}: {fault}")
    return found


def smiles_faults(texts: Sequence[str | None], tokenizer: TokenizerSection) -> dict[int, str]:
    """Those texts that are to be SMILES and are none: number -> what is wrong. What is missing is not asked about."""
    if not isinstance(tokenizer, SmilesTokenizer):
        return {}
    checks: list[Callable[[str], str | None]] = [grammar_fault]
    if tokenizer.check == "rdkit":
        checks.append(partial(_rdkit_fault, _rdkit()))
    found: dict[int, str] = {}
    for number, text in enumerate(texts):
        fault = None if text is None else next((said for check in checks if (said := check(text))), None)
        if fault is not None:
            assert text is not None
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
            found[number] = f"the SMILES {shown!r} {fault}"
    return found


def grammar_fault(text: str) -> str | None:
    """What is wrong with a molecule's SMILES, or a reaction's (``reactants>agents>products``), as the rest of a sentence; None where
    the grammar has it.
    """
    parts = _REACTION.split(text)
    if not any(parts):
        return "is empty"
    if len(parts) not in (1, 3):
        return f"has {len(parts) - 1} of the '>' of which a reaction has two"
    begin = 0
    for part in parts:
        if part and (fault := _Molecule().fault(part, begin)):
            return fault
        begin += len(part) + 1
    return None


class _Molecule:
    """What of a molecule is read so far."""

    def __init__(self) -> None:
        self._atoms = 0
        self._here: int | None = None
        """The atom that the next one is bonded to."""
        self._said = ""
        """The bond that was written last."""
        self._branches: list[tuple[int | None, int]] = []
        """Of each open one, the atom that it began at, and the character."""
        self._rings: dict[int, tuple[int, str]] = {}
        """Those that are open: the atom, and the bond that is said there."""
        self._bonds: set[tuple[int, int]] = set()

    def fault(self, text: str, begin: int) -> str | None:
        """What is wrong with a text that begins at a character of a longer one."""
        place, before = 0, "begin"
        while place < len(text):
            where = f"at character {begin + place + 1}"
            part = _PART.match(text, place)
            if part is None:
                return _no_part(text[place:], where)
            kind, value = part.lastgroup or "", part[0]
            if kind == "bracket":
                if fault := _bracket_fault(part["bracket"]):
                    return f"{fault} {where}"
                kind = "atom"
            if before not in _BEFORE[kind]:
                return f"has {value!r} {where}, where none can stand"
            if fault := getattr(self, f"_{kind}")(value, begin + place):
                return f"{fault} {where}"
            before = "branch bond" if kind == "bond" and before == "open" else kind
            place = part.end()
        if before not in _ENDS:
            return f"ends in {text[-1]!r}"
        if self._branches:
            return f"opens '(' at character {self._branches[-1][1] + 1} and does not close it"
        if self._rings:
            return f"opens ring {min(self._rings)} and does not close it"
        return None

    def _atom(self, value: str, at: int) -> None:
        if self._here is not None:
            self._bonds.add((self._here, self._atoms))
        self._here, self._said = self._atoms, ""
        self._atoms += 1

    def _ring(self, value: str, at: int) -> str | None:
        number, said = int(value.strip("%()")), self._said.replace("\\", "/")
        assert self._here is not None
        self._said = ""
        if number not in self._rings:
            self._rings[number] = (self._here, said)
            return None
        other, there = self._rings.pop(number)
        if other == self._here:
            return f"closes ring {number} on the atom that opened it"
        if (other, self._here) in self._bonds:
            return f"closes ring {number} between two atoms that are bonded already"
        if said and there and said != there:
            return f"opens ring {number} with {there!r} and closes it with {said!r}"
        self._bonds.add((other, self._here))
        return None

    def _bond(self, value: str, at: int) -> None:
        self._said = value

    def _open(self, value: str, at: int) -> None:
        self._branches.append((self._here, at))

    def _close(self, value: str, at: int) -> str | None:
        if not self._branches:
            return "has a ')' that closes nothing"
        self._here, _ = self._branches.pop()
        return None

    def _dot(self, value: str, at: int) -> None:
        self._here = None


def _no_part(rest: str, where: str) -> str:
    if rest[0] == "[":
        return f"opens '[' {where} and does not close it"
    if rest[0].isspace():
        return f"has white space {where}; a name belongs in a column of its own"
    return f"has {rest[0]!r} {where}, which is no atom, bond, branch or ring"


def _bracket_fault(inside: str) -> str | None:
    atom = _BRACKET.fullmatch(inside)
    if atom is None:
        return f"has '[{inside}]', which is written like no atom,"
    return None if atom["element"] in _ELEMENTS else f"has '[{inside}]', which is no element,"


def _rdkit() -> Any:
    """RDKit. Raises SpecError where it is not installed."""
    try:
        import rdkit.Chem
    except ImportError as error:
        raise SpecError(
            "data.prepare.tokenizer: check: rdkit needs RDKit, which is not installed; install trainwright[molecules], here and"
            " on the workers"
        ) from error
    return rdkit


def _rdkit_fault(library: Any, text: str) -> str | None:
    with library.rdBase.BlockLogs():  # what it would print is in the sentence
        for part in _REACTION.split(text):
            if library.Chem.MolFromSmiles(part) is not None:
                continue
            unchecked = library.Chem.MolFromSmiles(part, sanitize=False)
            problems = () if unchecked is None else library.Chem.DetectChemistryProblems(unchecked)
            return "; ".join(
                ["is no molecule to RDKit", *(problem.Message().strip() for problem in problems[:1])]
            )
    return None
