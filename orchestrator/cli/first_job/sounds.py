"""Sounds: in folders of classes, with a manifest that says which class each is of or what is said, or in a column of a table that
says it; heard by a recurrent network over their log-mel frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from orchestrator.cli.first_job.columns import NAME_SAYS_SO, Column, answer_of, encoded_in, guess_label
from orchestrator.cli.first_job.draft import Draft, scalar, training_length
from orchestrator.cli.first_job.source import Found
from orchestrator.data.columns.audio import AudioFacts, audio_facts
from orchestrator.data.columns.resampling import length_after
from orchestrator.data.files import read_range
from orchestrator.data.sources.formats import format_of
from orchestrator.errors import DataError

_MOST_LOOKED_AT = 500
_RATE = 16_000
"""Highest that a first job keeps: speech has little above half of it."""
_LONGEST_SECONDS = 10
"""Of sounds that a class is heard in; what is said is never cut."""
_TEXTS = ("text", "transcript", "transcription", "sentence", "utterance", "said", "normalized_text")
"""Names that say a column is what is said, the surest first."""
_SPEAKERS = ("speaker", "speaker_id", "client_id", "speakerid")
_FEWEST_SPEAKERS = 5
_RARE = 5
"""Texts with a character below which it may be that all of them are held out."""
_SPEECH_STEPS = 2400
"""Letters are told apart after some hundreds of steps in which nothing but blanks is heard."""


@dataclass(frozen=True)
class _Looked:
    """What sounds are, by the heads of some."""

    facts: Sequence[AudioFacts]
    damaged: int
    all: bool
    """Whether all were looked at."""

    @property
    def rates(self) -> list[int]:
        return sorted({one.rate for one in self.facts})

    @property
    def rate(self) -> int:
        """Samples a second that all are brought to."""
        return min(_RATE, *self.rates)

    @property
    def longest(self) -> int:
        """Samples at that rate."""
        return max(length_after(one.samples, one.rate, self.rate) for one in self.facts)

    @property
    def several_channels(self) -> bool:
        return len({one.channels for one in self.facts}) > 1

    def notes(self) -> list[str]:
        """Sentences on them."""
        notes = [
            f"samples a second: {', '.join(f'{one:,}' for one in self.rates)}; the longest looked at has"
            f" {self.longest / self.rate:.1f} seconds"
        ]
        if self.several_channels:
            notes.append("some have several channels: the mean of these is heard")
        if self.damaged:
            notes.append(
                f"{self.damaged} sounds can't be read; such are left out and logged (skip_bad_samples)"
            )
        return notes

    def steps(self, kept: int, longer: str) -> list[str]:
        """Transforms from encoded sounds to frames; ``kept`` samples of each."""
        rate, cut = self.rate, f", longer: {longer}"
        return [
            *([f"{{kind: resample, tensor: signal, rate: {rate}}}"] if self.rates != [rate] else []),
            f"{{kind: pad, tensor: signal, length: {kept}{cut}}}   # {kept / rate:.1f} seconds",
            f"{{kind: mel, tensor: signal, rate: {rate}, mels: 40, window: {_even(rate / 40)}, hop: {rate // 100}}}",
            "{kind: normalize, tensor: signal}",
            "{kind: spec_augment, tensor: signal, frequency_width: 5, time_width: 10}",
        ]


def sound_draft(found: Found) -> Draft:
    """A bidirectional GRU over folders of classes. Raises DataError where nothing tells classes apart."""
    index, paths = found.index, _paths(found)
    if len(index.classes) < 2:
        raise DataError(
            f"{index.root}: {len(paths):,} sounds in one folder, so nothing tells classes apart; put them into one folder for"
            " each class, or a manifest beside them: a CSV with the columns path, and label or text"
        )
    looked = _look_at_files(paths)
    said = (
        f"{len(paths):,} sounds in {len(index.classes)} folders, each a class: {', '.join(index.classes[:8])}"
    )
    return _classifier(
        found, looked, [said + (" ..." if len(index.classes) > 8 else "")], "columns: {signal: audio}", []
    )


def listed_sound_draft(found: Found, columns: Sequence[Column], asked: str | None) -> Draft:
    """The same of a manifest with a label, or, with a text, a GRU that writes what it hears.

    Raises:
        DataError: no column says what is to be learned.
        SpecError: there is no such column.
    """
    return _draft_beside(found, columns, asked, "audio", lambda: _look_at_files(_paths(found)))


def sound_column_draft(found: Found, columns: Sequence[Column], asked: str | None) -> Draft | None:
    """The same of a table with a column of encoded sounds; None where it has none. Raises likewise."""
    sound = next((one for one in columns if one.role == "sound"), None)
    if sound is None:
        return None
    values, root = found.sample.column(sound.name), found.index.root

    def look() -> _Looked:
        whole = found.rows == found.sample.num_rows
        looked = _look_at(
            len(values), lambda row: encoded_in(values[row].as_py()), lambda row: f"{root}, row {row}"
        )
        return replace(looked, all=looked.all and whole)

    beside = replace(
        found, sample=found.sample.drop([sound.name]), found=[f"sounds: {sound.name}", *found.found]
    )
    return _draft_beside(
        beside, [one for one in columns if one.role not in ("sound", "image")], asked, sound.name, look
    )


def _draft_beside(
    found: Found, columns: Sequence[Column], asked: str | None, sound: str, look: Callable[[], _Looked]
) -> Draft:
    """Of sounds in a column, and the columns beside it."""
    found = _speakers_apart(found, columns)
    column, why, is_text = _to_learn(found, columns, asked)
    looked = look()
    drop = [f"{{kind: drop, tensor: {'text' if is_text else 'label'}}}"] if column.missing else []
    others = [one.name for one in columns if one is not column]
    left = [f"left out: {', '.join(others)}; --label names another column"] if others else []
    if is_text:
        mapping = f"columns: {{signal: {scalar(sound)}, text: {scalar(column.name)}}}"
        return _writer(found, looked, column, mapping, [f"to write: {column.name} ({why})", *left], drop)
    answer = answer_of(column, found.sample.column(column.name), found.index.kind)
    unseen = ", unseen: unknown" if answer.rare or "group" in found.evaluation else ""
    encode = [f"{{kind: encode, tensor: label{unseen}}}"] if answer.encode else []
    notes = [f"to predict: {column.name} ({why}); {answer.words}", *left]
    mapping = f"columns: {{signal: {scalar(sound)}, label: {scalar(column.name)}}}"
    return _classifier(found, looked, notes, mapping, [*drop, *encode], answer.objective)


def _to_learn(found: Found, columns: Sequence[Column], asked: str | None) -> tuple[Column, str, bool]:
    """The column to learn, why, and whether it is what is said: as asked, by its name, or by what it holds."""
    rows = found.sample.num_rows
    texts = [one for one in columns if _is_words(one.kind) and one.distinct]
    named = [one for name in _TEXTS for one in texts if one.name.lower() == name]
    if asked is not None:
        spoken = [*named, *(one for one in texts if one.role in ("text", "left") and one.distinct > 1)]
        if (text := next((one for one in spoken if one.name == asked), None)) is not None:
            return text, "as --label says", True
        return *_found(found, guess_label(columns, rows, asked)), False
    if named:
        return named[0], NAME_SAYS_SO, True
    label, why = guess_label(columns, rows, None)
    if label is not None and why == NAME_SAYS_SO:
        return label, why, False
    if sentences := [one for one in columns if one.role == "text"]:
        return sentences[0], "it holds sentences", True
    words = [one for one in columns if one.role == "category" and one.name.lower() not in _SPEAKERS]
    return *_found(found, guess_label(words, rows, None)), False


def _is_words(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _found(found: Found, guess: tuple[Column | None, str]) -> tuple[Column, str]:
    label, why = guess
    if label is None:
        raise DataError(
            f"{found.index.root}: no column says what is said in the sounds or of which class they are; name one:"
            f" --label COLUMN ({', '.join(found.sample.column_names) or 'there is none but the path'})"
        )
    return label, why


def _speakers_apart(found: Found, columns: Sequence[Column]) -> Found:
    """Whole speakers held out, where a column names them: else a model is evaluated on voices that it knows."""
    speaker = next((one for one in columns if one.name.lower() in _SPEAKERS and not one.missing), None)
    if speaker is None or speaker.distinct < _FEWEST_SPEAKERS or "split" not in found.evaluation:
        return found
    evaluation = f"{{kind: split, fraction: 0.2, group: {scalar(speaker.name)}}}"
    said = f"evaluated on {speaker.name}s that no training sound has"
    return replace(found, evaluation=evaluation, found=[*found.found, said])


def _classifier(
    found: Found,
    looked: _Looked,
    notes: Sequence[str],
    mapping: str,
    of_label: Sequence[str],
    objective: str = "classification",
) -> Draft:
    kept = min(looked.longest, _LONGEST_SECONDS * looked.rate)
    return Draft(
        "gru",
        found.lines,
        _treatment(mapping, looked, 0, [*of_label, *looked.steps(kept, "cut")]),
        evaluation=found.evaluation,
        objective=objective,
        model=["inputs: signal", "bidirectional: true", "width: 64"],
        found=[*notes, *looked.notes(), *found.found],
        length=training_length(found.train_rows),
    )


def _writer(
    found: Found, looked: _Looked, text: Column, mapping: str, notes: Sequence[str], of_text: Sequence[str]
) -> Draft:
    texts = [one for one in found.sample.column(text.name).to_pylist() if one]
    rare = _with_rare_characters(texts) if found.evaluation else 0
    if rare:
        notes = [
            *notes,
            "some characters are in few texts: held-out texts with one that no training text has are left out and logged"
            " (skip_bad_samples)",
        ]
    # Of those not looked at some are longer; a text or a sound that is cut would teach what nobody said.
    longest = max(map(len, texts)) * (1 if found.rows == found.sample.num_rows else 2)
    kept = looked.longest if looked.all else looked.longest * 3 // 2
    unfit = ", unfit: skip" if rare else ""
    spell = f"{{kind: spell, tensor: text, length: {longest}{unfit}}}   # characters of a text at most"
    return Draft(
        "gru",
        found.lines,
        _treatment(
            mapping,
            looked,
            max(10, rare) if rare else 0,
            [*of_text, *looked.steps(kept, "error"), spell],
        ),
        evaluation=found.evaluation,
        objective="ctc",
        model=["inputs: signal", "bidirectional: true", "width: 96"],
        found=[*notes, *looked.notes(), *found.found],
        length=training_length(found.train_rows, _SPEECH_STEPS),
    )


def _with_rare_characters(texts: Sequence[str]) -> int:
    """Texts with a character that few of them have."""
    counts = Counter(character for text in texts for character in set(text))
    return sum(any(counts[character] < _RARE for character in text) for text in texts)


def _treatment(mapping: str, looked: _Looked, skipped: int, steps: Sequence[str]) -> list[str]:
    """Lines under ``data``. ``skipped``: samples that may be left out beside sounds that can't be read."""
    lines = [mapping]
    if looked.several_channels:
        lines.append("audio: {channels: 1}")
    if skipped or looked.damaged:
        lines.append(f"skip_bad_samples: {max(10, 20 * looked.damaged + skipped)}")
    return [*lines, "transforms:", *(f"  - {step}" for step in steps)]


def _paths(found: Found) -> list[str]:
    return [content.path for content in format_of("audio").contents(found.index)]


def _look_at_files(paths: Sequence[str]) -> _Looked:
    return _look_at(len(paths), lambda number: read_range(paths[number]), paths.__getitem__)


def _look_at(count: int, read: Callable[[int], bytes | None], where: Callable[[int], str]) -> _Looked:
    """What sounds are, and how many can't be read. Raises DataError where none can."""
    facts, damaged = [], 0
    step = max(1, count // _MOST_LOOKED_AT)
    for number in range(0, count, step):
        try:
            facts.append(audio_facts(read(number), partial(where, number)))
        except DataError:
            damaged += 1
    if not facts:
        raise DataError(f"{where(0)}: can't be read, nor can any other of the {damaged} sounds looked at")
    return _Looked(facts, damaged, step == 1)


def _even(samples: float) -> int:
    return round(samples / 2) * 2
