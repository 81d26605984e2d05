"""Where the data came from, for the tracker: data sets under the names that the person wrote, with digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.data.sources.split import SourceRows
from orchestrator.spec.data import Split
from orchestrator.spec.job import JobSpec

_MOST_COLUMNS = 200
"""Columns of a schema that a tracker is given."""
_LONGEST_NAME = 200
_DIGEST_LETTERS = 12


def lineage(
    job: JobSpec,
    train: Sequence[SourceRows],
    evaluation: SourceRows | None,
    *,
    train_samples: int,
    eval_samples: int,
) -> dict[str, Any]:
    """What a tracker keeps of the data's origin: ``train`` and ``eval``.

    Args:
        job: what the person wrote.
        train: rows as the sources have them, before anything was prepared.
        evaluation: the same of the evaluation.
        train_samples: that training makes of them.
        eval_samples: that evaluation makes of them.

    """
    sections = job.data.train if isinstance(job.data.train, tuple) else (job.data.train,)
    record = {"train": _record(sections, train, train_samples)}
    if evaluation is not None:
        of_eval = sections[:1] if isinstance(job.data.eval, Split) else (job.data.eval,)
        record["eval"] = _record(of_eval, [evaluation], eval_samples)
    return record


def _record(sections: Sequence[Any], sources: Sequence[SourceRows], samples: int) -> dict[str, str]:
    first = sources[0].index
    fields = [first.schema.field(position) for position in range(min(_MOST_COLUMNS, len(first.schema)))]
    columns = [{"name": field.name, "type": str(field.type)} for field in fields]
    return {
        "name": " + ".join(_name(section) for section in sections)[:_LONGEST_NAME],
        "digest": _digest(sources),
        "source_type": sections[0].kind,
        "source": json.dumps({"uri": [source.index.root for source in sources]}),
        "schema": json.dumps({"columns": columns}),
        "profile": json.dumps({"samples": samples}),
    }


def _name(section: Any) -> str:
    name: str = getattr(section, {"builtin": "name", "pipeline": "function"}.get(section.kind, "path"))
    return name.removeprefix("./").rstrip("/") or name


def _digest(sources: Sequence[SourceRows]) -> str:
    """Of the values, and of which rows: a held-out part is a data set of its own, or MLflow would drop one of the two."""
    content = json.dumps([[source.index.identity, *source.part.key] for source in sources])
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGEST_LETTERS]
