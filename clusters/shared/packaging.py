"""The package that travels with a job: our code, the job's working directory and the plan; no secrets, no data."""

from __future__ import annotations

import functools
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator import errors
from orchestrator.clusters.shared.credentials import credentials_in
from orchestrator.clusters.shared.ignore_rules import DATA, IGNORE_FILES, NEVER, SECRETS, IgnoreRules
from orchestrator.errors import NotFoundError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.section import format_bytes

PLAN_NAME = "trainwright-plan.json"
"""The plan's name in the package."""
LARGEST_PACKAGE_BYTES = 100 * 10**6
"""Ray keeps packages in the head's memory and sends each to every node."""
_LARGEST_FILES_SHOWN = 3
_SECRETS, _NEVER, _DATA = IgnoreRules(SECRETS, any_case=True), IgnoreRules(NEVER), IgnoreRules(DATA)
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every entry, so that the same files make the same package."""


@dataclass(frozen=True)
class PackedFile:
    """One file of a package."""

    name: str
    """Path in the package."""
    source: Path
    """Where it lies."""
    size_bytes: int


@dataclass(frozen=True)
class Listing:
    """What would travel and what would not."""

    files: tuple[PackedFile, ...]
    left_out: tuple[tuple[str, str], ...]
    """Path and why: ``ignored``, ``secret``, ``data``, ``link``."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, not compressed."""
        return sum(file.size_bytes for file in self.files)

    def summary(self) -> str:
        """One line for a person: how much, the largest files, and what stays for which reason."""
        largest = sorted(self.files, key=lambda file: -file.size_bytes)[:_LARGEST_FILES_SHOWN]
        text = f"{len(self.files)} files, {format_bytes(self.size_bytes)}"
        if largest:
            text += f" (largest: {', '.join(f'{f.name} {format_bytes(f.size_bytes)}' for f in largest)})"
        for reason in ("secret", "data", "link"):
            names = [name for name, why in self.left_out if why == reason]
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                text += f"; left out as {reason}: {', '.join(names[:5])}{more}"
        return text


def list_working_dir(folder: Path) -> Listing:
    """The files of a working directory that travel.

    Raises:
        NotFoundError: no such folder.
        SpecError: it holds credentials, or a top-level ``orchestrator`` that would hide ours.
    """
    if not folder.is_dir():
        raise NotFoundError(f"environment.working_dir: {folder} is not a folder")
    written = [
        line
        for name in IGNORE_FILES
        if (folder / name).is_file()
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    files: list[PackedFile] = []
    left_out: list[tuple[str, str]] = []
    for path in _walk(folder, folder, IgnoreRules([*DATA, *written]), left_out):
        name = path.relative_to(folder).as_posix()
        if name.startswith("orchestrator/") or name == "orchestrator.py":
            raise SpecError(
                f"environment.working_dir: {folder / name.split('/')[0]} would hide the package of the same name"
                " that runs the job; rename it"
            )
        if kind := credentials_in(path):
            raise SpecError(
                f"environment.working_dir: {path} holds {kind}; move it out of the folder, or add /{name} to"
                " .trainwrightignore"
            )
        files.append(PackedFile(name, path, path.stat().st_size))
    return Listing(tuple(files), tuple(sorted(left_out)))


def list_own_code() -> Listing:
    """The files of this installation that a cluster needs to run a job."""
    root = Path(errors.__file__).resolve().parent
    files = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            if not name.endswith((".pyc", ".pyo")):
                inside = path.relative_to(root).as_posix()
                files.append(PackedFile(f"orchestrator/{inside}", path, path.stat().st_size))
    return Listing(tuple(files), ())


def list_package(plan: Plan, *, with_own_code: bool) -> Listing:
    """All that travels with a plan, besides the plan. Raises as ``list_working_dir``."""
    own = list_own_code() if with_own_code else Listing((), ())
    if plan.job.environment.working_dir is None:
        return own
    theirs = list_working_dir(Path(plan.base_dir, plan.job.environment.working_dir))
    return Listing((*own.files, *theirs.files), theirs.left_out)


def pack(plan: Plan, *, with_own_code: bool, largest_bytes: int = LARGEST_PACKAGE_BYTES) -> bytes:
    """A zip file of what travels with a plan, and the plan. The same content makes the same bytes.

    Raises:
        NotFoundError, SpecError: as ``list_working_dir``; SpecError also where it is too large, with what is
            largest and how to leave it out.
    """
    listing = list_package(plan, with_own_code=with_own_code)
    if listing.size_bytes > largest_bytes:
        raise SpecError(
            f"environment.working_dir: {listing.summary()}, but at most {format_bytes(largest_bytes)} can travel;"
            " list what is not code in .trainwrightignore and read data from storage that the nodes reach"
        )
    return _zip(listing, plan)


@functools.cache
def pack_own_code() -> bytes:
    """A zip file of our code alone, which does not change while a process runs."""
    return _zip(list_own_code(), None)


def _zip(listing: Listing, plan: Plan | None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in sorted(listing.files, key=lambda file: file.name):
            mode = 0o755 if os.access(file.source, os.X_OK) else 0o644
            archive.writestr(_entry(file.name, mode), file.source.read_bytes())
        if plan is not None:
            archive.writestr(_entry(PLAN_NAME, 0o644), plan.model_dump_json())
    return buffer.getvalue()


def _walk(top: Path, folder: Path, rules: IgnoreRules, left_out: list[tuple[str, str]]) -> list[Path]:
    """Files below a folder that travel; what does not is added to ``left_out``."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        name = path.relative_to(top).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if _NEVER.ignores(name, is_folder=is_folder):
            continue
        why = _stays(name, rules, is_folder=is_folder)
        if not why and path.is_symlink():
            why = _link_stays(top, path, rules)
        if why:
            left_out.append((name, why))
        elif is_folder:
            found += _walk(top, path, rules, left_out)
        elif path.is_file():
            found.append(path)
    return found


def _stays(name: str, rules: IgnoreRules, *, is_folder: bool) -> str:
    """Why a path stays behind; empty where it travels."""
    if _SECRETS.ignores(name, is_folder=is_folder):
        return "secret"
    if rules.ignores(name, is_folder=is_folder):
        return "data" if _DATA.ignores(name, is_folder=is_folder) else "ignored"
    return ""


def _link_stays(top: Path, link: Path, rules: IgnoreRules) -> str:
    """Why a link stays behind: what it leads to is no file of the folder, or is one that stays behind."""
    target, root = link.resolve(), top.resolve()
    if not target.is_file() or not target.is_relative_to(root):
        return "link"
    inside = target.relative_to(root)
    for part in (*reversed(inside.parents), inside):
        name, is_folder = part.as_posix(), part != inside
        if name != "." and (
            _NEVER.ignores(name, is_folder=is_folder) or _stays(name, rules, is_folder=is_folder)
        ):
            return "link"
    return ""


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _FIXED_TIME)
    entry.external_attr = (0o100000 | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
