#!/usr/bin/env python3
"""Put small faults into the core, one at a time, and see how many of them the unit tests notice.

    python scripts/mutants.py [--survivors]

mutmut does it, in a virtual environment of its own below .tools that also sees this one's packages; [tool.mutmut] in
pyproject.toml says which modules and which tests. What was tried stays in mutants/: a run that was interrupted goes on,
and after a change of code or tests all is tried anew. Writes docs/mutants.md, with the reasons of mutants_survivors.toml.
Exits with 1 where a module's share of noticed faults is below BAR, or one that was not noticed has no reason.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / ".tools" / "mutmut-venv"
MUTMUT = "mutmut==3.8.1"
FOLDER = REPO / "mutants"
DIGEST = FOLDER / "digest"
STATS = FOLDER / "mutmut-stats.json"
"""Which tests reach what, and how long they take."""
PAGE = REPO / "docs" / "mutants.md"
REASONS = REPO / "scripts" / "mutants_survivors.toml"
BAR = 0.9
"""Of a module's mutants, the share that must be noticed."""
NOTICED = ("killed", "timeout")


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    name: str
    """mutmut's."""
    status: str

    @property
    def module(self) -> str:
        """Path of the module."""
        return self.name.rpartition(".")[0].replace(".", "/") + ".py"

    @property
    def function(self) -> str:
        """``function`` or ``Class.method``; mutmut writes ``x_function__mutmut_1`` and ``xǁClassǁmethod__mutmut_1``."""
        mangled = self.name.rpartition(".")[2].rpartition("__mutmut_")[0]
        return mangled[2:].replace("ǁ", ".") if mangled.startswith("xǁ") else mangled.removeprefix("x_")


@dataclass(frozen=True)
class Reason:
    """Why some mutants may live."""

    module: str
    function: str
    lines: tuple[str, ...]
    """What the changed lines became."""
    reason: str


def install() -> Path:
    """The command, installed if need be."""
    command = VENV / "bin" / "mutmut"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        (packages,) = VENV.glob("lib/python*/site-packages")
        ours = sysconfig.get_path("purelib")
        (packages / "packages_of_the_project.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        subprocess.run([str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", MUTMUT], check=True)
    return command


def mutmut(*arguments: str, quiet: bool = False) -> str:
    """Run it. Returns its output where it is ``quiet``; raises CalledProcessError."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO / "scripts"),  # mutants_plugin
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [str(install()), *arguments],
        cwd=REPO,
        env=environment,
        check=True,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
    )
    return done.stdout or ""


def digest() -> str:
    """Of all that decides which mutants there are and which die."""
    files = [REPO / "pyproject.toml", REPO / "scripts" / "mutants_plugin.py"]
    for folder in ("orchestrator", "models", "clusters", "tests"):
        files += sorted((REPO / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def tried() -> list[Mutant]:
    """Every mutant and how it fared."""
    lines = mutmut("results", "--all", "true", quiet=True).splitlines()
    return [Mutant(*line.strip().rsplit(": ", 1)) for line in lines if "__mutmut_" in line]


def changes(mutant: Mutant) -> tuple[list[str], list[str]]:
    """Lines before and after the change, without indent."""
    diff = [
        line
        for line in mutmut("show", mutant.name, quiet=True).splitlines()
        if line[:3] not in ("---", "+++")
    ]
    before, after = ([line[1:].strip() for line in diff if line[:1] == sign] for sign in "-+")
    return before, after


def reasons() -> list[Reason]:
    """Of mutants_survivors.toml."""
    entries = tomllib.loads(REASONS.read_text())["survivors"]
    return [
        Reason(e["module"], e["function"], tuple(e["lines"]), " ".join(e["reason"].split())) for e in entries
    ]


def table(mutants: Iterable[Mutant]) -> str:
    """Counts of each module, as a Markdown table."""
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        by_module[mutant.module]["noticed" if mutant.status in NOTICED else "not"] += 1
    by_module["all"] = sum(by_module.values(), Counter())
    rows = ["| Module | Faults | Noticed | Not noticed | Share |", "|---|---:|---:|---:|---:|"]
    for module, count in by_module.items():
        share = count["noticed"] / count.total()
        rows.append(
            f"| {module} | {count.total()} | {count['noticed']} | {count['not']} | {100 * share:.1f}% |"
        )
    return "\n".join(rows)


def below_bar(mutants: Iterable[Mutant]) -> list[str]:
    """Modules of which too few mutants were noticed."""
    noticed: dict[str, list[bool]] = defaultdict(list)
    for mutant in mutants:
        noticed[mutant.module].append(mutant.status in NOTICED)
    return [module for module, each in noticed.items() if sum(each) < BAR * len(each)]


def page(mutants: list[Mutant], explained: dict[Reason, list[str]], unexplained: list[str]) -> str:
    """docs/mutants.md."""
    parts = [HEAD, table(mutants), "\n## Not noticed, and why\n"]
    module = ""
    for reason, diffs in explained.items():
        if reason.module != module:
            module = reason.module
            parts.append(f"### {module}\n")
        parts.append(f"`{reason.function}`: {reason.reason}\n\n```diff\n" + "\n".join(diffs) + "\n```\n")
    if unexplained:
        parts.append("### Without a reason\n\n```diff\n" + "\n".join(unexplained) + "\n```\n")
    return "\n".join(parts)


HEAD = f"""# Mutants

How much of the core could be broken without a test turning red. [mutmut](https://mutmut.readthedocs.io) puts one small
fault after the other into the code (another operator, number, text, argument, `None` in place of a value) and runs the
unit tests that reach it. `make mutants` does all of it, writes this page, and fails where fewer than {BAR:.0%} of a
module's faults are noticed or one that is not noticed has no reason here. `scripts/mutants.py --survivors` tries again
only those. mutmut leaves decorated functions (properties, too) and what stands outside of functions as it is.
"""


def main() -> None:
    """Try, count, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--survivors", action="store_true", help="try again only what was not noticed")
    options = parser.parse_args()

    if options.survivors:
        again = [mutant.name for mutant in tried() if mutant.status not in NOTICED]
        STATS.unlink(missing_ok=True)  # else only new tests are looked at, not what an old one reaches by now
        mutmut("run", *again)
    else:
        now = digest()
        if FOLDER.exists() and not (DIGEST.exists() and DIGEST.read_text() == now):
            shutil.rmtree(FOLDER)
        FOLDER.mkdir(exist_ok=True)
        DIGEST.write_text(now)
        mutmut("run")

    mutants = tried()
    explained: dict[Reason, list[str]] = {reason: [] for reason in reasons()}
    unexplained: list[str] = []
    for mutant in mutants:
        if mutant.status not in NOTICED:
            before, after = changes(mutant)
            diff = [f"-{line}" for line in before] + [f"+{line}" for line in after]
            for reason, diffs in explained.items():
                where = (reason.module, reason.function)
                if where == (mutant.module, mutant.function) and set(after) <= set(reason.lines):
                    diffs += diff
                    break
            else:
                unexplained += [f"# {mutant.module} {mutant.function}: {mutant.status}", *diff]
    needed = {reason: diffs for reason, diffs in explained.items() if diffs}
    PAGE.write_text(page(mutants, needed, unexplained))

    print(table(mutants))
    low = below_bar(mutants)
    for module in low:
        print(f"{module}: less than {BAR:.0%} of its faults are noticed")
    for reason in explained.keys() - needed.keys():
        print(
            f"mutants_survivors.toml: {reason.module} {reason.function} needs no reason any more: {reason.lines}"
        )
    if unexplained:
        print("not noticed, and without a reason in mutants_survivors.toml:", *unexplained, sep="\n  ")
    sys.exit(bool(low or unexplained))


if __name__ == "__main__":
    main()
