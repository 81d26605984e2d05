"""Sounds: folders of classes, each heard by a recurrent network over its log-mel frames."""

from __future__ import annotations

from collections import Counter
from functools import partial

from orchestrator.cli.first_job.draft import Draft, training_length
from orchestrator.cli.first_job.source import Found
from orchestrator.data.columns.audio import AudioFacts, audio_facts, length_after
from orchestrator.data.files import read_range
from orchestrator.data.sources.formats import format_of
from orchestrator.errors import DataError

_MOST_LOOKED_AT = 500
_RATE = 16_000
"""Highest that a first job keeps: speech has little above half of it."""
_LONGEST_SECONDS = 10


def sound_draft(found: Found) -> Draft:
    """A bidirectional GRU over folders of classes. Raises DataError where nothing tells classes apart."""
    index, paths = found.index, [content.path for content in format_of("audio").contents(found.index)]
    if len(index.classes) < 2:
        raise DataError(
            f"{index.root}: {len(paths):,} sounds in one folder, so nothing tells classes apart; put them into one folder for"
            " each class, or write data.train with a manifest (trainwright explain data.train)"
        )
    facts, damaged = _facts(paths[:: max(1, len(paths) // _MOST_LOOKED_AT)])
    rates = Counter(one.rate for one in facts)
    rate = min(_RATE, *rates) if len(rates) > 1 else min(_RATE, facts[0].rate)
    longest = max(length_after(one.samples, one.rate, rate) for one in facts)
    kept = min(longest, _LONGEST_SECONDS * rate)
    steps = [f"{{kind: resample, tensor: signal, rate: {rate}}}"] if set(rates) != {rate} else []
    steps += [
        f"{{kind: pad, tensor: signal, length: {kept}, longer: cut}}   # {kept / rate:.1f} seconds",
        f"{{kind: mel, tensor: signal, rate: {rate}, mels: 40, window: {_even(rate / 40)}, hop: {rate // 100}}}",
        "{kind: normalize, tensor: signal}",
        "{kind: spec_augment, tensor: signal, frequency_width: 5, time_width: 10}",
    ]
    notes = [
        f"{len(paths):,} sounds in {len(index.classes)} folders, each a class: {', '.join(index.classes[:8])}"
        + (" ..." if len(index.classes) > 8 else ""),
        f"samples a second: {', '.join(f'{one:,}' for one in sorted(rates))}; the longest looked at has"
        f" {longest / rate:.1f} seconds",
    ]
    lines = ["columns: {signal: audio}"]
    if len({one.channels for one in facts}) > 1:
        lines.append("audio: {channels: 1}")
        notes.append("some have several channels: the mean of these is heard")
    if damaged:
        lines.append(f"skip_bad_samples: {max(10, 20 * damaged)}")
        notes.append(f"{damaged} sounds can't be read; such are left out and logged (skip_bad_samples)")
    return Draft(
        "gru",
        found.lines,
        [*lines, "transforms:", *(f"  - {step}" for step in steps)],
        evaluation=found.evaluation,
        objective="classification",
        model=["inputs: signal", "bidirectional: true", "width: 64"],
        found=[*notes, *found.found],
        length=training_length(found.train_rows),
    )


def _facts(paths: list[str]) -> tuple[list[AudioFacts], int]:
    """What sounds are, and how many can't be read."""
    facts, damaged = [], 0
    for path in paths:
        try:
            facts.append(audio_facts(read_range(path), partial(str, path)))
        except DataError:
            damaged += 1
    if not facts:
        raise DataError(f"{paths[0]}: can't be read, nor can any other of the {len(paths)} sounds looked at")
    return facts, damaged


def _even(samples: float) -> int:
    return round(samples / 2) * 2
