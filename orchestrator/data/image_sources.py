"""Images of several sources, and of evaluation, seen alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.data.columns.image_sets import joined
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.prepared import PreparedSource
from orchestrator.errors import DataError
from orchestrator.spec.data import DataSpec


def with_one_look(
    train: Sequence[PreparedSource], evaluation: PreparedSource | None
) -> tuple[tuple[PreparedSource, ...], PreparedSource | None]:
    """The sources with what all training images have in common; evaluation sees its images as training does.

    Raises:
        DataError: evaluation has colors where training is gray.
    """
    common: dict[str, TensorLayout] = {}
    for source in train:
        for layout in source.layouts:
            if layout.kind == "image":
                common[layout.name] = joined(common.get(layout.name, layout), layout)
    if evaluation is not None:
        for layout in evaluation.layouts:
            ours = common.get(layout.name)
            if layout.kind == "image" and ours is not None and layout.shape[0] > ours.shape[0]:
                raise DataError(
                    f"{evaluation.index.root}: has images in color, but all looked at in {train[0].index.root} are gray;"
                    " give data.images: {channels: 3}, or {channels: 1} to make all gray"
                )
    with_it = [_with_common(source, common) for source in (*train, *([evaluation] if evaluation else []))]
    return tuple(with_it[: len(train)]), with_it[-1] if evaluation else None


def image_notes(train: Sequence[PreparedSource], spec: DataSpec) -> Iterator[str]:
    """Sentences for the plan on what was found of images that do not say it themselves."""
    for layout in train[0].layouts if spec.images.range is None else ():
        if layout.black_and_white is not None:
            black, white = layout.black_and_white
            yield (
                f"images of 32 bits: {black:g} is black and {white:g} white, as those looked at have it; data.images.range"
                " can say otherwise"
            )


def _with_common(source: PreparedSource, common: dict[str, TensorLayout]) -> PreparedSource:
    layouts = []
    for layout in source.layouts:
        if layout.kind == "image" and (ours := common.get(layout.name)) is not None:
            seen = {name: getattr(ours, name) for name in ("carried", "black_and_white")}
            layout = layout.model_copy(update={"shape": (ours.shape[0], *layout.shape[1:]), **seen})
        layouts.append(layout)
    return source.model_copy(update={"layouts": tuple(layouts)})
