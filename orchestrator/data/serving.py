"""How rows as a data source has them become what a trained model takes: saved beside the model, as JSON.

The tokenizer, the encoded categories and the statistics that training fitted travel in it, so that a model's answer to
a row does not depend on anything outside its folder.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import group_values
from orchestrator.data.columns.encoded import decode, decoded_together
from orchestrator.data.columns.layout import TensorLayout, finished
from orchestrator.data.preparations.conversations import asked_text, template_learned
from orchestrator.data.preparations.pairs import target_definition
from orchestrator.data.preparations.sequences import pad_rows
from orchestrator.data.preparations.series import series_values
from orchestrator.data.preparations.smiles import smiles_faults
from orchestrator.data.preparations.text_columns import strings_of
from orchestrator.data.preparations.tokenizers import CLASSIFY, END, PAD, Tokenizer, tokenizer_from_json
from orchestrator.data.preparations.tokenizers.library import LibraryTokenizer
from orchestrator.data.prepared import Prepared
from orchestrator.data.transforms import Batch, SampleFault, apply_all
from orchestrator.errors import DataError
from orchestrator.models.text_scores import TEXT_SCORES, Spell, sacrebleu_metrics
from orchestrator.planning.plan import ResolvedJob
from orchestrator.section import Section
from orchestrator.spec.preparations import Conversations, Pack, Pairs, Preparation, Tokenize, Windows
from orchestrator.spec.transforms import Transform
from orchestrator.storage import store_and_name

INPUTS = "inputs.json"
"""Beside a model's weights, and in the storage of its run."""
_LONGEST_PATH = 1024


class Inputs(Section):
    """What a model's folder says about its inputs."""

    prepare: Preparation | None = None
    """The run's preparation."""
    learned: dict[str, Any] = {}
    """What it learned: a tokenizer, or the mean and deviation of each series."""
    layouts: tuple[TensorLayout, ...] = ()
    """The columns that make each input tensor."""
    transforms: tuple[Transform, ...] = ()
    """What is done to them."""
    fitted: tuple[dict[str, Any], ...] = ()
    """What each transform learned: categories, means."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the model's outputs, where the data has them."""

    @property
    def text_column(self) -> str | None:
        """The column of the text that the model reads; None where it reads no text."""
        return getattr(self.prepare, "text_column", None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a source's rows that are read; none where the model is given no rows."""
        if self.text_column is not None:
            return (self.text_column,)
        if isinstance(self.prepare, Windows):
            beside = (self.prepare.group, self.learned["time"])
            return (*(name for name in beside if name is not None), *self.series)
        return tuple(dict.fromkeys(name for layout in self.layouts for name in layout.read_columns))

    @property
    def series(self) -> tuple[str, ...]:
        """The series that are forecast; none where the model forecasts no rows."""
        return tuple(self.learned["series"]) if isinstance(self.prepare, Windows) else ()

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer of what is read. Only where there is a ``text_column``."""
        return tokenizer_from_json(self.learned["tokenizer"])

    def tokenizer_files(self) -> dict[str, str]:
        """The tokenizer as ``AutoTokenizer`` reads it: name -> text. None where text becomes tokens by another kind of
        tokenizer, or the model reads no text.
        """
        if self.text_column is None or "target_tokenizer" in self.learned:
            return {}
        assert isinstance(self.prepare, Pack | Tokenize | Pairs | Conversations)
        tokenizer = self.tokenizer()
        if not isinstance(tokenizer, LibraryTokenizer):
            return {}
        first, last = _around(self.prepare)
        return tokenizer.files(
            context=self.prepare.context, first=first, last=last, template=self.learned.get("template")
        )

    def tensors(self, rows: pa.Table, where: Callable[[int], str] | None = None) -> Batch:
        """The model's input tensors for rows as the data source has them; labels are not asked for.

        Of series, one sample: what the last rows are the past of.

        Args:
            rows: with the columns that are read, and any others.
            where: (row) -> words that say where it is, for messages. Default: its number.

        Raises:
            DataError: a column is missing or unlike the training data's, or a value was never seen.
        """
        if isinstance(self.prepare, Conversations):
            return self._padded([self.prompt(one) for one in _column(rows, self.prepare.column).to_pylist()])
        if self.text_column is not None:
            return self.read(strings_of(_with(rows, self.text_column), self.text_column), where)
        if isinstance(self.prepare, Windows):
            return self._past(rows)
        for layout in self.layouts:
            for name in layout.read_columns:
                _column(rows, name)
        where = where or _by_number
        batch = {one.name: _layout_values(rows, one, where) for one in self.layouts if not one.encoded}
        for layouts in decoded_together(self.layouts):
            batch.update(_decoded_values(rows, layouts, where))
        try:
            changed = apply_all(self.transforms, self.fitted, batch, training=False)
        except SampleFault as fault:
            raise DataError(f"{where(fault.sample)}: {fault.tensor!r} {fault}") from None
        return finished(changed, self.layouts)

    def read(self, texts: Sequence[str], where: Callable[[int], str] | None = None) -> Batch:
        """``tokens`` (rows, context) and ``length`` (rows,) of texts. Only where there is a ``text_column``.

        Args:
            where: see ``tensors``.

        Raises:
            DataError: a text is too long, can't be written in the tokenizer's vocabulary, or is no SMILES where it is to be.
        """
        assert isinstance(self.prepare, Pack | Tokenize | Pairs)
        for row, fault in smiles_faults(texts, self.prepare.tokenizer).items():
            raise DataError(f"{(where or _by_number)(row)}: {fault}")
        return self._padded(self.tokenizer().encode(texts))

    def _padded(self, ids: Sequence[np.ndarray]) -> Batch:
        assert isinstance(self.prepare, Pack | Tokenize | Pairs | Conversations)
        tokenizer = self.tokenizer()
        first, last = _around(self.prepare)
        tokens, length = pad_rows(
            ids,
            length=self.prepare.context,
            pad=tokenizer.specials.get(PAD, 0),
            begin=None if first is None else tokenizer.specials[first],
            end=None if last is None else tokenizer.specials[last],
            long=getattr(self.prepare, "long", "cut"),
        )
        return {"tokens": tokens.astype(np.int64), "length": length.astype(np.int64)}

    def _past(self, rows: pa.Table) -> Batch:
        assert isinstance(self.prepare, Windows)
        if len(rows) < self.prepare.past:
            raise DataError(f"a forecast needs the last {self.prepare.past} rows, but there are {len(rows)}")
        values = series_values(rows.slice(len(rows) - self.prepare.past), self.learned["series"])
        past = ((values - self.learned["mean"]) / self.learned["deviation"]).astype(np.float32)
        return {"past": past[None] if self.prepare.together else past.T[:, :, None]}

    def forecast(self, future_BHS: np.ndarray) -> np.ndarray:
        """The model's outputs for ``tensors``' one sample, as rows (horizon, series) in the series' own units."""
        assert isinstance(self.prepare, Windows)
        values = future_BHS[0] if self.prepare.together else future_BHS[:, :, 0].T
        rows: np.ndarray = values * self.learned["deviation"] + self.learned["mean"]
        return rows

    def prompt(self, asked: Any) -> np.ndarray:
        """Tokens (T,) that a language model shall go on from, at least one: of a text, or of a conversation that it is to answer
        (messages, their JSON, or what a user says).

        Raises:
            DataError: a text without a character, or no conversation.
        """
        tokenizer = self.tokenizer()
        if isinstance(self.prepare, Conversations):
            text = asked_text(asked, template_learned(self.learned, tokenizer))
            return tokenizer.encode_marked([text])[0].ids.astype(np.int64)
        tokens = tokenizer.encode([asked])[0]
        if len(tokens):
            return tokens.astype(np.int64)
        if END not in tokenizer.specials:
            raise DataError("a text to go on from needs at least one character")
        return np.array([tokenizer.specials[END]], dtype=np.int64)

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens of which any ends what a language model writes."""
        tokenizer = tokenizer_from_json(target_definition(self.learned))
        known = (tokenizer.specials.get(END), self.learned.get("answer_end"))
        return tuple(dict.fromkeys(one for one in known if one is not None))

    def written(self, tokens: Sequence[int]) -> str:
        """What a language model wrote, up to its end token, as text."""
        tokenizer, ends = tokenizer_from_json(target_definition(self.learned)), self.ends
        drawn = list(tokens)
        return tokenizer.decode(
            drawn[: next((place for place, one in enumerate(drawn) if one in ends), None)]
        )


def inputs_of(job: ResolvedJob, prepared: Prepared) -> Inputs:
    """What of a run's prepared data its model needs from then on."""
    names = set(job.model.export_tensors(job.objective))
    for section in reversed(job.data.transforms):
        if section.tensor in names:
            names.update(section.reads)
    of_inputs = [
        (section, learned)
        for section, learned in zip(job.data.transforms, prepared.fitted, strict=True)
        if section.tensor in names
    ]
    learned = dict(prepared.preparation)
    lengths = [one for one in prepared.train[0].layouts if one.kind == "audio_length"]
    if names.intersection(one.name for one in prepared.train[0].layouts if one.kind == "audio"):
        names.update(one.name for one in lengths)  # what a piece is cut from
    classes = prepared.classes or tuple(str(value) for value in learned.get("classes", ()))
    return Inputs(
        prepare=job.data.prepare,
        learned=learned,
        layouts=tuple(one for one in prepared.train[0].layouts if one.name in names),
        transforms=tuple(section for section, _ in of_inputs),
        fitted=tuple(dict(statistics) for _, statistics in of_inputs),
        classes=classes,
    )


def token_bytes_of(job: ResolvedJob, prepared: Prepared) -> np.ndarray | None:
    """(vocabulary,) bytes of text that each token stands for; None where nothing is measured by them.

    Raises:
        DataError: they are not known.
    """
    if "bits_per_byte" not in job.objective.measured:
        return None
    definition = prepared.preparation.get("tokenizer")
    sizes = None if definition is None else tokenizer_from_json(definition).token_bytes()
    if sizes is None:
        raise DataError(
            "objective.metrics: bits_per_byte needs to know how many bytes of text each token stands for, and "
            + (
                "the data came as tokens"
                if definition is None
                else "this tokenizer does not spell all of a text out"
            )
            + "; use a tokenizer of kind bytes, bpe, characters (without unknown) or a byte-level file, or leave it out"
        )
    vocabulary = getattr(job.model, "vocabulary", None) or len(sizes)
    return np.pad(sizes, (0, max(0, vocabulary - len(sizes))))  # a model may have more ids than there are


def spell_of(job: ResolvedJob, prepared: Prepared) -> Spell | None:
    """What makes texts of tokens that were written; None where no texts are scored.

    Raises:
        SpecError: what scores them is not installed.
    """
    if not any(name in TEXT_SCORES for name in job.objective.measured):
        return None
    sacrebleu_metrics()
    return inputs_of(job, prepared).written


def decode_text(prepared: Prepared, tokens: Sequence[int], *, read: bool = False) -> str:
    """Tokens as text, by the run's tokenizer; as numbers where the data came tokenized already.

    Args:
        read: they are of what a model reads, not of what it writes, which may have a tokenizer of its own.
    """
    learned = prepared.preparation
    if "tokenizer" not in learned and prepared.classes:  # characters that ``spell`` numbered
        return "".join(prepared.classes[int(token)] for token in tokens)
    if "tokenizer" not in learned:
        return " ".join(str(int(token)) for token in tokens)
    definition = learned["tokenizer"] if read else target_definition(learned)
    return tokenizer_from_json(definition).decode([int(token) for token in tokens])


def _around(section: Pack | Tokenize | Pairs | Conversations) -> tuple[str | None, str | None]:
    """The special tokens that are put before and after a text that a model reads."""
    match section:
        case Tokenize():
            return (CLASSIFY if section.classify else None), None
        case Pairs():
            return (CLASSIFY if section.begin else None), END
    return None, None


def _with(rows: pa.Table, name: str) -> pa.Table:
    _column(rows, name)
    return rows


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise DataError(
            f"the rows have no column {name!r}, which the model reads; they have {', '.join(rows.column_names)}"
        )
    return rows[name]


def _by_number(row: int) -> str:
    return f"row {row}"


def _layout_values(rows: pa.Table, layout: TensorLayout, where: Callable[[int], str]) -> np.ndarray:
    """One tensor as it is carried before transforms."""
    values = group_values(rows, layout, where)
    if layout.kind in ("text", "dates"):
        return np.asarray(values)
    return np.asarray(values).astype(layout.carried, copy=False)


def _decoded_values(
    rows: pa.Table, layouts: tuple[TensorLayout, ...], where: Callable[[int], str]
) -> dict[str, np.ndarray]:
    """The same of tensors that are decoded of one column, as training reads them, to the last bit."""
    given = group_values(rows, layouts[0], where).to_pylist()
    made = [decode(_encoded(one), layouts[0], where, row) for row, one in enumerate(given)]
    values = {
        layout.name: np.stack(tensors).astype(layout.carried)
        for layout, tensors in zip(layouts, zip(*made, strict=True), strict=False)
    }
    first = layouts[0]
    if first.kind == "image" and first.carried == first.dtype:
        values[first.name] = values[first.name] * np.float32(1 / 255)
    return values


def _encoded(given: bytes | str | None) -> bytes | None:
    """An encoded picture or sound that is given itself, by its path or URI, or in base64, as JSON carries it."""
    if not isinstance(given, str):
        return given
    problem: object = "no such file"
    if len(given) <= _LONGEST_PATH:
        store, name = store_and_name(given)
        try:
            return store.read(name)
        except OSError as error:
            problem = error.strerror or error
    try:
        return base64.b64decode(given.partition(";base64,")[2] or given, validate=True)
    except ValueError:
        raise DataError(f"the file {given[:200]!r} can't be read: {problem}") from None
