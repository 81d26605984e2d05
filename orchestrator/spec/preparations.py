"""Preparations: what turns raw rows into other samples, once, before training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.section import PathText, Section
from orchestrator.spec.numbers import Positive


class BytesTokenizer(Section):
    """UTF-8 bytes; nothing is fitted and nothing is unknown."""

    kind: Literal["bytes"] = "bytes"
    """The tokenizer."""


class CharactersTokenizer(Section):
    """One token for each character of the training text."""

    kind: Literal["characters"] = "characters"
    """The tokenizer."""
    unknown: bool = False
    """Give characters that the training text lacks a token of their own; when false they are an error."""


class WordsTokenizer(Section):
    """The most frequent words and punctuation marks of the training text; others are ``<unk>``."""

    kind: Literal["words"] = "words"
    """The tokenizer."""
    vocabulary: Positive = 10_000
    """Different tokens at most."""
    lowercase: bool = False
    """Take capitals for small letters."""


class BpeTokenizer(Section):
    """Byte-level byte-pair encoding trained on the training text (Sennrich et al. 2016, arXiv:1508.07909)."""

    kind: Literal["bpe"] = "bpe"
    """The tokenizer."""
    vocabulary: Annotated[int, Field(ge=257)] = 4096
    """Different tokens at most."""


class SmilesTokenizer(Section):
    """Atoms, bonds, branches and rings of molecules in SMILES, one token for each kind that the training text has; others are
    ``<unk>``. What stands in square brackets is one atom. A text that is no SMILES is bad input (``skip_bad_samples``).
    """

    kind: Literal["smiles"] = "smiles"
    """The tokenizer."""
    check: Literal["grammar", "rdkit"] = "grammar"
    """What a text must be: ``grammar``, a molecule or a reaction as OpenSMILES writes it (elements, brackets, bonds, branches, rings);
    ``rdkit``, also one that RDKit takes, by valences and aromatic rings (``pip install trainwright[molecules]``)."""


class FileTokenizer(Section):
    """A Hugging Face ``tokenizers`` file."""

    kind: Literal["file"] = "file"
    """The tokenizer."""
    path: PathText
    """``tokenizer.json``, relative to the job file's folder."""


TokenizerSection = Annotated[
    BytesTokenizer | CharactersTokenizer | WordsTokenizer | BpeTokenizer | SmilesTokenizer | FileTokenizer,
    Field(discriminator="kind"),
]


class Pack(Section):
    """Text into sequences of one length without padding: documents one after the other, cut every so many tokens.

    Makes the tensors ``tokens`` and, if asked for, ``document`` and ``word``.
    """

    kind: Literal["pack"] = "pack"
    """The preparation."""
    column: str = "text"
    """The column of the text."""
    tokenizer: TokenizerSection
    """How text becomes tokens."""
    context: Positive
    """Tokens that the model reads at once."""
    next_token: bool = True
    """Give each sequence one token more, so that a causal model has a target for each token it reads; the extra one is
    the next sequence's first. When false (masked models) sequences don't overlap."""
    overlap: Annotated[int, Field(ge=0)] = 0
    """Further tokens that a sequence shares with the one before it."""
    separator: bool = True
    """Put an end token after each row's text; when false, rows are read as one text."""
    document: bool = False
    """Also make ``document``, the number of each token's row in its sequence."""
    word: bool = False
    """Also make ``word``, the number of each token's word in its sequence (for whole-word masking)."""

    @model_validator(mode="after")
    def _moves_on(self) -> Pack:
        if self.overlap >= self.context:
            raise ValueError(f"overlap {self.overlap} must be less than context {self.context}")
        return self

    @property
    def needs_neighbors(self) -> bool:
        """Whether what is made of a row needs the rows before it: without separators they are one text."""
        return not self.separator

    @property
    def text_column(self) -> str:
        """The column of the text that a model reads."""
        return self.column

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return self.context + self.next_token

    @property
    def stride(self) -> int:
        """Tokens from one sequence's first to the next one's."""
        return self.context - self.overlap


class Tokenize(Section):
    """Text into one row of tokens each, filled up to one length.

    Makes the tensors ``tokens``, ``length`` (how many are real) and, with ``label``, the class's number.
    """

    kind: Literal["tokenize"] = "tokenize"
    """The preparation."""
    column: str = "text"
    """The column of the text."""
    tokenizer: TokenizerSection
    """How text becomes tokens."""
    context: Positive
    """Tokens of a row, with the classification token in front."""
    long: Literal["error", "cut"] = "cut"
    """What becomes of a longer text: its first tokens, or an error."""
    classify: bool = True
    """Put a classification token first, which a bidirectional encoder's answer is read from."""
    word: bool = False
    """Also make ``word``, the number of each token's word (for whole-word masking)."""
    label: str | None = None
    """The column of the class; any values, numbered in their order. Default: no labels."""
    numbers: tuple[str, ...] = ()
    """The columns of the numbers to predict (``regression``), which become ``label`` in this order. What is missing stays missing, for
    the objective's ``missing_labels``."""

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Tokenize:
        if self.label is not None and self.numbers:
            raise ValueError("label is for a class and numbers are for regression; give one of them")
        return self

    @property
    def needs_neighbors(self) -> bool:
        """Each text is by itself."""
        return False

    @property
    def text_column(self) -> str:
        """The column of the text that a model reads."""
        return self.column


class Pairs(Section):
    """Pairs of texts, of which a model is to make the second from the first: translations, questions and answers.

    Makes the tensors ``tokens`` and ``length`` of the source, ``target`` and ``target_length`` of the target, each with an end
    token last and filled up to one length. A pair of which one side is blank is bad input (``skip_bad_samples``).
    """

    kind: Literal["pairs"] = "pairs"
    """The preparation."""
    source: str = "source"
    """The column of the text that is read."""
    target: str = "target"
    """The column of the text that is written."""
    tokenizer: TokenizerSection
    """How text becomes tokens, on both sides."""
    target_tokenizer: TokenizerSection | None = None
    """How the target does, where it has a tokenizer and a vocabulary of its own. Default: as the source."""
    context: Positive
    """Tokens of a source, with its end token."""
    target_context: Positive | None = None
    """Tokens of a target, with its end token. Default: as ``context``."""
    begin: bool = False
    """Also put a begin token (``<s>``, ``[CLS]``) before each text, as BART has it."""
    long: Literal["error", "cut"] = "error"
    """What becomes of a longer text: an error, or its first tokens and the end token."""

    @model_validator(mode="after")
    def _leaves_room(self) -> Pairs:
        least = 2 + self.begin
        for name in ("context", "target_context"):
            if (getattr(self, name) or least) < least:
                raise ValueError(
                    f"{name} must be at least {least}: a token of text, and what stands around it"
                )
        return self

    @property
    def needs_neighbors(self) -> bool:
        """Each pair is by itself."""
        return False

    @property
    def text_column(self) -> str:
        """The column of the text that a model reads."""
        return self.source


class Conversations(Section):
    """Conversations into tokens by a chat template; the loss is of the assistant's answers alone.

    A row has a list of messages, each with ``role`` and ``content``, or that list as JSON. Makes the tensors ``tokens``,
    ``answer_mask`` (1 for each token of an answer and the token that ends it) and ``length``, or packed ``document``.
    """

    kind: Literal["conversations"] = "conversations"
    """The preparation."""
    column: str = "messages"
    """The column of the messages."""
    tokenizer: TokenizerSection
    """How text becomes tokens."""
    template: PathText | None = None
    """A chat template (Jinja), relative to the job file's folder. Default: the one in the folder of a tokenizer's file
    (``chat_template.jinja``, or ``tokenizer_config.json``), else ``<user>...<end><assistant>...<end>``."""
    context: Positive
    """Tokens that the model reads at once."""
    packed: bool = False
    """Put conversations one after the other into sequences without padding, cut every so many tokens. When false each is a
    sample of its own, filled up to one length."""
    long: Literal["error", "cut"] = "error"
    """What becomes of a longer conversation, not packed: an error, or its first tokens."""

    @property
    def needs_neighbors(self) -> bool:
        """Each conversation is by itself."""
        return False

    @property
    def text_column(self) -> str:
        """The column of what a model reads."""
        return self.column


class Windows(Section):
    """Series into windows: so many rows of past and the rows of horizon after them.

    Makes the tensors ``past`` and ``future``. Rows stand in order of time; a held-out share is the end of each series, and
    before it ``horizon`` rows are left out, so that no training window knows of what is forecast there.
    """

    kind: Literal["windows"] = "windows"
    """The preparation."""
    columns: tuple[str, ...] | Literal["*"] = "*"
    """The columns that are series to forecast; ``"*"`` is every numeric column."""
    together: bool = True
    """Forecast all series of a row at once, each from the past of all. When false each series' window is a sample of
    its own, and one model learns from all series: often better where they behave alike (Nie et al. 2022,
    arXiv:2211.14730)."""
    past: Positive
    """Rows that the model sees."""
    horizon: Positive
    """Rows to forecast."""
    stride: Positive = 1
    """Rows from one window's start to the next one's."""
    group: str | None = None
    """The column that says which rows belong together (a shop, a sensor); no window runs over two of them.
    Default: all rows of a file are one series."""
    files: Literal["apart", "joined"] = "apart"
    """``apart``: no window runs from one file to another; ``joined``: rows go on from one file to the next, in the order
    of the numbers in their names."""
    time: str | None = None
    """The column that says when a row was: dates, times or whole numbers. Rows that go back in it are an error.
    Default: the only column of dates or times, where there is one."""
    jumps: Literal["error", "cut", "ignore"] = "error"
    """What a jump in time is, a step of more than 1.5 usual ones (the training rows' median): an error; ``cut``: no window
    runs over it; ``ignore``: only the rows' order counts, as of working days."""
    normalize: bool = True
    """Subtract each series' mean and divide by its standard deviation, both fitted on the training rows."""

    @property
    def needs_neighbors(self) -> bool:
        """Whether what is made of a row needs the rows before it."""
        return True


class Select(Section):
    """Keep some rows, by the value of a column; for example all but one class, to learn what is normal."""

    kind: Literal["select"] = "select"
    """The preparation."""
    column: str
    """The column."""
    only: tuple[str | int, ...] = ()
    """Rows with one of these values are kept."""
    without: tuple[str | int, ...] = ()
    """Rows with none of these values are kept. One of ``only`` and ``without`` must be given."""

    @model_validator(mode="after")
    def _one_rule(self) -> Select:
        if bool(self.only) == bool(self.without):
            raise ValueError("give exactly one of only and without")
        return self

    @property
    def needs_neighbors(self) -> bool:
        """Each row is by itself."""
        return False


Preparation = Annotated[
    Pack | Tokenize | Pairs | Conversations | Windows | Select, Field(discriminator="kind")
]
