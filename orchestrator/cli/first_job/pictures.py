"""Images: folders of classes, or a column of encoded images beside a label."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import pyarrow as pa
from PIL import Image

from orchestrator.cli.first_job.columns import Column, answer_of, guess_label
from orchestrator.cli.first_job.draft import Draft, scalar, training_length
from orchestrator.cli.first_job.source import Found
from orchestrator.data.files import read_range
from orchestrator.data.sources.formats import format_of
from orchestrator.errors import DataError

_MOST_LOOKED_AT = 500
_LARGEST_SIDE = 64


def folder_draft(found: Found) -> Draft:
    """A CNN over folders of classes; a GAN where there is one folder alone."""
    paths = [content.path for content in format_of("images").contents(found.index)]
    step = max(1, len(paths) // _MOST_LOOKED_AT)
    sizes, damaged = _sizes(read_range(path) for path in paths[::step])
    classes = found.index.classes
    said = f"{len(paths):,} images in {len(classes)} folders, each a class: {', '.join(classes[:8])}"
    if len(classes) == 1:
        return _one_class(found, f"{len(paths):,} images in one folder, so nothing tells classes apart")
    return _classifier(found, [], [said + (" ..." if len(classes) > 8 else "")], sizes, damaged, [])


def picture_draft(found: Found, columns: Sequence[Column], asked: str | None) -> Draft | None:
    """The same of a column of images beside a label; None where there is none."""
    image = next((one for one in columns if one.role == "image"), None)
    tensor = next((one for one in columns if _is_picture(one.kind)), None)
    if image is None and tensor is None:
        return None
    chosen = image or tensor
    assert chosen is not None
    label, why = guess_label([one for one in columns if one is not chosen], found.sample.num_rows, asked)
    if label is None:
        raise DataError(
            f"{found.index.root}: no column says which class the images of {chosen.name!r} are of"
        )
    answer = answer_of(label, found.sample.column(label.name), found.index.kind)
    encode = ["{kind: encode, tensor: label}"] if answer.encode else []
    notes = [f"images: {chosen.name}", f"to predict: {label.name} ({why}); {answer.words}"]
    mapping = [f"columns: {{image: {scalar(chosen.name)}, label: {scalar(label.name)}}}"]
    if image is None:
        return _draft(found, mapping, notes, encode, answer.objective)
    column = found.sample.column(image.name)
    encoded = (value for value in column.to_pylist() if value is not None)
    sizes, damaged = _sizes(value["bytes"] if isinstance(value, dict) else value for value in encoded)
    return _classifier(found, mapping, notes, sizes, damaged, encode, answer.objective)


def _is_picture(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 3


def _sizes(encoded: Iterable[bytes]) -> tuple[Counter[tuple[int, int]], int]:
    """How often each size (height, width) comes, and how many images can't be opened."""
    sizes: Counter[tuple[int, int]] = Counter()
    damaged = 0
    for content in islice(encoded, 2 * _MOST_LOOKED_AT):
        try:
            with Image.open(io.BytesIO(content)) as image:
                sizes[image.size[1], image.size[0]] += 1
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            damaged += 1
    return sizes, damaged


def _classifier(
    found: Found,
    mapping: list[str],
    notes: list[str],
    sizes: Counter[tuple[int, int]],
    damaged: int,
    more: list[str],
    objective: str = "classification",
) -> Draft:
    if not sizes:
        raise DataError(f"{found.index.root}: none of its images can be opened")
    (height, width), _ = sizes.most_common(1)[0]
    steps = list(more)
    if len(sizes) > 1 or max(height, width) > _LARGEST_SIDE:
        side = next((one for one in (64, 32, 16) if min(map(min, sizes)) >= one), 16)
        steps = [
            f"{{kind: resize, height: {side}, width: {side}}}   # smaller trains faster, larger sees more",
            *steps,
        ]
        many = "of several sizes" if len(sizes) > 1 else f"{height} x {width}"
        notes = [*notes, f"images are {many}: all are brought to {side} x {side}"]
    steps.append("{kind: normalize, tensor: image, per: channel}")
    lines = list(mapping)
    if damaged:
        lines.append(f"skip_bad_samples: {max(10, 20 * damaged)}")
        notes = [*notes, f"{damaged} images can't be opened; such are left out and logged (skip_bad_samples)"]
    return _draft(found, lines, notes, steps, objective)


def _draft(found: Found, lines: list[str], notes: list[str], steps: list[str], objective: str) -> Draft:
    return Draft(
        "cnn",
        found.lines,
        [*lines, *(["transforms:", *(f"  - {step}" for step in steps)] if steps else [])],
        evaluation=found.evaluation,
        objective=objective,
        found=[*notes, *found.found],
        length=training_length(found.train_rows),
    )


def _one_class(found: Found, said: str) -> Draft:
    steps = [
        "{kind: resize, height: 32, width: 32}",
        "{kind: scale, tensor: image, factor: 2.0, offset: -1.0}   # from 0..1 to -1..1",
    ]
    return Draft(
        "gan",
        found.lines,
        ["transforms:", *(f"  - {step}" for step in steps)],
        evaluation=found.evaluation,
        found=[f"{said}: a model that makes more like them (gan)", *found.found],
        rate="5.0e-4",
        betas=", betas: [0.5, 0.99]",
        length=training_length(found.train_rows),
    )
