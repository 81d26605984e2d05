"""Text and signals that travel with Python and with matplotlib (which MLflow needs), as tables."""

from __future__ import annotations

import ast
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

_EEG_ELECTRODES = 4
_SPIKE_LEVEL = -0.2
_SIGNAL_READINGS, _AHEAD_READINGS, _STRIDE = 200, 20, 4


def pydoc_topics() -> pa.Table:
    """``text``: the topics of Python's language reference, about 465,000 characters of English."""
    from pydoc_data.topics import topics

    return pa.table({"text": [topics[name] for name in sorted(topics)]})


def docstrings() -> pa.Table:
    """``text``: docstrings of the standard library; ``kind``: whether they document a class, function or module;
    ``package``: the top-level package or module they are from. Read from source: nothing is imported.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = [row for path in _sources(root) for row in _documented(path, root)]
    texts, kinds, packages = zip(*rows, strict=True)
    return pa.table({"text": list(texts), "kind": list(kinds), "package": list(packages)})


_LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "pydoc_data",
    "lib2to3",
)


def _sources(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not set(path.relative_to(root).parts) & set(_LEFT_OUT):
            yield path


def _documented(path: Path, root: Path) -> Iterator[tuple[str, str, str]]:
    kinds: dict[type, str] = {
        ast.Module: "module",
        ast.ClassDef: "class",
        ast.FunctionDef: "function",
        ast.AsyncFunctionDef: "function",
    }
    package = path.relative_to(root).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text, kinds[type(node)], package


_IMPORTERS_AT_LEAST, _IMPORTS_AT_LEAST = 5, 4


def imports() -> pa.Table:
    """Which module of the standard library imports which: ``file``, its ``package``, ``module``, and ``imported``, 0 or
    1, for every pair of a file that imports at least 4 of the modules that at least 5 files import. Read from source.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    imports_of = {str(path.relative_to(root)): _imported(path) for path in _sources(root)}
    counts = Counter(module for modules in imports_of.values() for module in modules)
    modules = sorted(module for module, count in counts.items() if count >= _IMPORTERS_AT_LEAST)
    files = [name for name, those in imports_of.items() if len(those & set(modules)) >= _IMPORTS_AT_LEAST]
    pairs = [(name, module) for name in files for module in modules]
    return pa.table(
        {
            "file": [name for name, _ in pairs],
            "package": [Path(name).parts[0].removesuffix(".py") for name, _ in pairs],
            "module": [module for _, module in pairs],
            "imported": [int(module in imports_of[name]) for name, module in pairs],
        }
    )


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def neuron() -> pa.Table:
    """``potential``: a nerve cell's membrane potential, 12,000 readings, spikes and all, a row a reading."""
    return pa.table({"potential": _membrane()})


def neuron_spikes() -> pa.Table:
    """``signal`` (2, 200): the readings up to now, and when each was (-1 to 0), since a network that averages over time
    could not tell; ``label``: whether the nerve cell fires within the next 20.

    In order of time, every fourth reading: hold the last ones out (``by: position``), since neighbors overlap.
    """
    potential = _membrane()
    fires = np.zeros(len(potential), dtype=np.int64)
    fires[1:] = (potential[1:] > _SPIKE_LEVEL) & (potential[:-1] <= _SPIKE_LEVEL)
    fired = np.concatenate([[0], np.cumsum(fires)])
    now = np.arange(_SIGNAL_READINGS, len(potential) - _AHEAD_READINGS, _STRIDE)
    readings = potential[now[:, None] + np.arange(-_SIGNAL_READINGS, 0)]
    when = np.linspace(-1, 0, _SIGNAL_READINGS, dtype=np.float32)
    signal = np.stack([readings, np.broadcast_to(when, readings.shape)], axis=1)
    label = (fired[now + _AHEAD_READINGS] > fired[now]).astype(np.int64)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(signal))
    return pa.table({"signal": tensor, "label": label})


def _membrane() -> np.ndarray:
    return np.fromfile(_sample("membrane.dat"), dtype="<f4")


def eeg() -> pa.Table:
    """Four electrodes' electroencephalogram, 800 readings each, a row a time."""
    values = np.fromfile(_sample("eeg.dat"), dtype="<f8").reshape(-1, _EEG_ELECTRODES).astype(np.float32)
    return pa.table({f"electrode_{number}": values[:, number] for number in range(_EEG_ELECTRODES)})


def _sample(name: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / name


TABLES: dict[str, Callable[[], pa.Table]] = {
    "pydoc_topics": pydoc_topics,
    "docstrings": docstrings,
    "imports": imports,
    "neuron": neuron,
    "neuron_spikes": neuron_spikes,
    "eeg": eeg,
}
"""Name of a builtin source -> its rows."""
