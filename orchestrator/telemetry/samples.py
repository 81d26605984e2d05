"""What a model generated after a step, as one file for the tracker: a page of texts, or a sheet of pictures or plots;
sounds as a file each.
"""

from __future__ import annotations

import html
import io
import wave
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.models.base import Sample
from orchestrator.telemetry import pictures

_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:60rem;color:#1f2937}}h1{{font-size:1.1rem}}
h2{{font-size:.8rem;color:#6b7280;margin:1.2rem 0 .2rem}}pre{{white-space:pre-wrap;background:#f6f7f9;padding:.6rem .8rem;
border-radius:6px;margin:0;font:13px/1.5 ui-monospace,monospace}}</style><h1>{title}</h1>{body}"""


def files_of(step: int, samples: Sequence[tuple[Sample, str]]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files that show a step's samples in order; one for each kind there is.

    Args:
        step: they are from.
        samples: each with its text, which is empty where it is none.

    """
    for sample, _ in samples:
        if sample.kind == "matrix":
            yield f"{sample.name}/step-{step:08d}.png", png_of(pictures.of_matrix(sample.data, sample.lines))
        if sample.kind == "sound":
            yield f"samples/sounds/{sample.name}.wav", wav_of(sample)
    texts = [(sample.name, text) for sample, text in samples if sample.kind == "text"]
    if texts:
        yield f"samples/step-{step:08d}.html", text_page(step, texts)
    for kind in ("image", "series"):
        shown = [pictures.of_sample(sample) for sample, _ in samples if sample.kind == kind]
        if shown:
            suffix = "" if kind == "image" else "-series"
            yield f"samples/step-{step:08d}{suffix}.png", png_of(pictures.sheet(shown))


def text_page(step: int, texts: Iterable[tuple[str, str]]) -> bytes:
    """An HTML page of texts, each below its name."""
    body = "".join(f"<h2>{html.escape(name)}</h2><pre>{html.escape(text)}</pre>" for name, text in texts)
    return _PAGE.format(title=f"Step {step:,}", body=body).encode()


def wav_of(sound: Sample) -> bytes:
    """A sound as a WAV file of 16 bits, which any browser plays."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(sound.data.shape[1])
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(sound.data.astype("<i2").tobytes())
    return buffer.getvalue()


def png_of(pixels: pictures.Pixels) -> bytes:
    """Pixels (H, W, 3) uint8 as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
