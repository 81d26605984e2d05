"""DataSpec: where samples come from and what is done to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.section import PathText, Section, Written
from orchestrator.spec.numbers import Positive
from orchestrator.spec.preparations import Preparation
from orchestrator.spec.transforms import Spell, Transform


class BuiltinSource(Section):
    """Real data that comes with scikit-learn or Python; written to Parquet once, then read like any other."""

    kind: Literal["builtin"] = "builtin"
    """Bundled data."""
    name: Literal[
        "digits",
        "breast_cancer",
        "wine",
        "diabetes",
        "iris",
        "pydoc_topics",
        "docstrings",
        "imports",
        "neuron",
        "neuron_spikes",
        "eeg",
    ]
    """Which. ``pydoc_topics``: Python's language reference as text; ``docstrings``: the standard library's, with the
    kind of object and the part of the library they are from; ``imports``: which of its files imports which of its
    modules; ``neuron``: a nerve cell's membrane potential, a row a
    reading; ``neuron_spikes``: its last 200 readings, and whether it fires within the next 20; ``eeg``: the signals
    of four electrodes (these three from matplotlib's sample data)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share in a mix of several sources, relative to the others'."""


class FileSource(Section):
    """Files as they lie, on disk, ``s3://`` or ``gs://``."""

    kind: Literal["parquet", "jsonl", "images", "audio", "webdataset", "arrow", "numpy"]
    """``parquet``, ``jsonl`` (an object a line) and ``arrow`` (IPC files, Hugging Face datasets on disk): a row a sample; ``images``: a folder with one folder of images for each class, or Parquet with
    their bytes; ``audio``: a folder with one folder of sounds (WAV, FLAC, OGG) for each class, or a manifest: CSV, JSON
    lines or Parquet with a column ``path`` (or ``file_name``, ``audio_filepath``) and what belongs to each, which lies above its sounds; ``webdataset``: tars, in which files of one name but their extension are a sample; ``numpy``: a folder
    of ``.npy`` files of one length, each a column."""
    path: PathText
    """A file, a folder, or a pattern with ``*``; relative to the job file's folder."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share in a mix of several sources, relative to the others'."""


class CsvSource(Section):
    """CSV files with a header line, on disk, ``s3://`` or ``gs://``; a row a sample. How they are written is found in the
    first one's beginning where a field says ``auto``, and ``plan`` says what was found.
    """

    kind: Literal["csv"] = "csv"
    """CSV."""
    path: PathText
    """A file, a folder, or a pattern with ``*``; relative to the job file's folder."""
    separator: Annotated[
        str, Written(r"^(auto|[^\w\r\n\"])$", "auto, or one character that is no letter, digit or quote")
    ] = "auto"
    """The character between two columns; ``"\\t"`` is a tab."""
    quote: Annotated[str, Written(r"^[^\w\r\n]?$", "one character that is no letter or digit, or empty")] = (
        '"'
    )
    """The character around fields that hold separators or line breaks; empty where there is none, so that quotes are
    letters like any other."""
    encoding: str = "auto"
    """Of the text, e.g. ``cp1252``, ``gbk``; ``auto`` is UTF-8, or ``cp1252`` where it can't be that."""
    decimal: Literal["auto", ".", ","] = "auto"
    """What stands before a number's fraction."""
    thousands: Literal["auto", "", ",", ".", " ", "'", "_"] = "auto"
    """What stands between a number's thousands. ``auto`` takes what can be nothing else, as in ``1.234,50``; what can
    be read in two ways, as ``1,234``, stays text, and ``plan`` says so."""
    missing: tuple[str, ...] = ()
    """Texts that mean that there is no value, e.g. ``["?"]``, beside the empty one, and ``NA``, ``NaN``, ``null`` and
    the like in columns of numbers."""
    text: tuple[str, ...] = ()
    """Columns that are text though they look like numbers or dates: post codes, identifiers."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share in a mix of several sources, relative to the others'."""

    @field_validator("encoding")
    @classmethod
    def _ascii_is_itself(cls, encoding: str) -> str:
        ascii_bytes = bytes(range(128))
        try:
            known = encoding == "auto" or ascii_bytes.decode(encoding) == ascii_bytes.decode("ascii")
        except (LookupError, UnicodeError):
            known = False
        if not known:
            raise ValueError(
                f"{encoding!r} is no encoding that is read; write the file as UTF-8, e.g. iconv -f {encoding} -t UTF-8"
            )
        return encoding


class TextSource(Section):
    """Text files, UTF-8, on disk, ``s3://`` or ``gs://``. Makes one column, ``text``."""

    kind: Literal["text"] = "text"
    """Plain text."""
    path: PathText
    """A file, a folder, or a pattern with ``*``; relative to the job file's folder."""
    rows: Literal["line", "paragraph", "file"] = "line"
    """What one row is: a line with its line end, the lines up to an empty one, or a whole file. Lines and
    paragraphs keep every character, so that one after the other they are the file again."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share in a mix of several sources, relative to the others'."""


class PipelineSource(Section):
    """A Ray Data pipeline of one's own. It is run once, sorted by its id column and written to Parquet in the cache;
    training reads that, so all guarantees hold from there on. That what it makes is always the same is its own affair.
    """

    kind: Literal["pipeline"] = "pipeline"
    """A pipeline."""
    function: Annotated[str, Written(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", "module:function, e.g. my_data:read")]
    """``module:function`` in the job's working directory; returns a ``ray.data.Dataset``."""
    arguments: dict[str, Any] = {}
    """What the function is called with."""
    id_column: str
    """The column whose values tell rows apart and put them in order."""
    version: str = "1"
    """Change it, or the module's text, to have the pipeline run anew."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share in a mix of several sources, relative to the others'."""


Source = Annotated[
    BuiltinSource | FileSource | CsvSource | TextSource | PipelineSource, Field(discriminator="kind")
]


class Split(Section):
    """A held-out part of the training data."""

    kind: Literal["split"] = "split"
    """Hold samples out."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the samples that is held out."""
    by: Literal["hash", "position", "group"] | None = None
    """``hash``: picked at random by the seed, each sample by itself; ``position``: the last ones; ``group``: whole groups, picked by the
    seed. Default: ``group`` where there is one; ``position`` where ``prepare`` needs rows that follow one another (windows; pack without
    separators), else ``hash``."""
    group: str | None = None
    """Column whose equal values stay on one side: a speaker, a patient, a molecule's scaffold. As many samples are held out as whole
    groups allow, nearest to ``fraction``. Default: none."""

    @model_validator(mode="after")
    def _group_is_said(self) -> Split:
        if self.by == "group" and self.group is None:
            raise ValueError("by: group needs group, the column whose equal values stay on one side")
        if self.by in ("hash", "position") and self.group is not None:
            raise ValueError(
                f"by: {self.by} takes rows apart that group keeps together; leave one of them out"
            )
        return self


_Byte = Annotated[int, Field(ge=0, le=255)]


class Images(Section):
    """How encoded images become pixels in 0..1, wherever they come from: folders, tars, columns of tables, rows that a logged
    model is given.
    """

    channels: Literal["auto", 1, 3] = "auto"
    """``3``: red, green and blue; gray images get three equal ones. ``1``: all are made gray. ``auto``: 3 where any
    of the training images looked at is in color (all of a small data set, else some hundreds from all over it); a color
    image that turns up among gray ones later is an error."""
    background: tuple[_Byte, _Byte, _Byte] = (255, 255, 255)
    """Red, green and blue that transparent pixels are laid on. Default: white."""
    range: tuple[float, float] | None = None
    """The values that become 0 and 1 in images of 32-bit integers or fractions, which do not say it themselves. Default: as
    they stand where all looked at lie in 0..1; else from 0, or the least below it, to the greatest looked at. Nothing
    is cut off. (Images of 8 and 16 bits have ranges of their own.)"""

    @field_validator("range")
    @classmethod
    def _rises(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError(f"black must be less than white, not {ends[0]:g} and {ends[1]:g}")
        return ends


class Sounds(Section):
    """How encoded sounds become samples in -1..1, wherever they come from: folders, manifests, tars, columns of tables, rows
    that a logged model is given. Their rate and length are made alike by the transforms ``resample`` and ``pad``.
    """

    channels: Literal["auto", 1] = "auto"
    """``1``: the mean of a sound's channels. ``auto``: as many as the first has; a sound with others is an error."""


class DataSpec(Section):
    """Where samples come from and what is done to them."""

    train: Source | tuple[Source, ...]
    """The source of training samples; several are mixed by their weights."""
    eval: (
        Annotated[
            BuiltinSource | FileSource | CsvSource | TextSource | PipelineSource | Split,
            Field(discriminator="kind"),
        ]
        | None
    ) = None
    """What is evaluated on: a source, or a split of the training data. Default: nothing."""
    columns: dict[str, str | tuple[str, ...]] = {}
    """Which columns make each named tensor that the model takes, e.g. ``{features: "*", label: target}``;
    ``"*"`` is every numeric column not named elsewhere. Default: the column of the tensor's name."""
    prepare: Preparation | None = None
    """What turns the source's rows into other samples, once, before training: text into sequences of tokens, series
    into windows. ``columns`` then names what it makes. Default: a row is a sample."""
    images: Images = Images()
    """How encoded images become pixels."""
    audio: Sounds = Sounds()
    """How encoded sounds become samples."""
    transforms: tuple[Transform, ...] = ()
    """What is done to the named tensors, in order, on the nodes that read."""
    shuffle: bool = True
    """Shuffle the training samples, differently in each epoch, as the seed says."""
    shuffle_window_rows: Positive = 65_536
    """Rows that are shuffled together, at most 128 MB of them; more is closer to a full shuffle, takes more memory and
    makes the first batch wait longer."""
    tail: Literal["pad", "drop"] = "pad"
    """The epoch's last, incomplete batch: filled up with samples of weight zero, or left out."""
    skip_bad_samples: Annotated[int, Field(ge=0)] = 0
    """Different samples that the run may leave out because they can't be read (an image that can't be decoded, a
    missing number); each is logged with file and row and counts nothing. Workers add up theirs with each checkpoint,
    which keeps them. 0: the first one is an error."""
    reader: Literal["ray", "worker"] = "ray"
    """``ray``: Ray Data reads and transforms on any node of the cluster; ``worker``: each worker by itself."""
    reader_tasks: Positive = 2
    """Read tasks of each worker that run at once (reader ``ray``), or threads that decode (reader ``worker``)."""
    reader_cpus: Annotated[float, Field(ge=0)] = 0
    """CPU cores that Ray sets aside for each read task; with 0 reading never waits for cores that workers have
    (reader ``ray``)."""
    prefetch_batches: Annotated[int, Field(ge=0)] = 4
    """Batches made ready ahead of the loop."""

    @model_validator(mode="after")
    def _split_of_one(self) -> DataSpec:
        if isinstance(self.eval, Split) and isinstance(self.train, tuple) and len(self.train) != 1:
            raise ValueError("data.eval: a split needs one training source; name an eval source instead")
        return self

    @model_validator(mode="after")
    def _neighbors_stay_together(self) -> DataSpec:
        if not isinstance(self.eval, Split) or self.prepare is None or not self.prepare.needs_neighbors:
            return self
        if self.eval.by == "hash":
            raise ValueError(
                f"data.eval.by: hash takes rows out of the middle, but prepare: {self.prepare.kind} needs rows that follow"
                " one another; set it to position, or leave it out"
            )
        windows_apart = self.prepare.kind == "windows" and self.prepare.group == self.eval.group
        if self.eval.group is not None and not windows_apart:
            raise ValueError(
                f"data.eval.group: {self.eval.group!r} takes rows out of the middle, but prepare: {self.prepare.kind} needs rows that"
                " follow one another; split by the group of its windows, or by position"
            )
        return self

    @model_validator(mode="after")
    def _skips_are_counted(self) -> DataSpec:
        if not self.skip_bad_samples and any(
            isinstance(t, Spell) and t.unfit == "skip" for t in self.transforms
        ):
            raise ValueError(
                "data.transforms: spell with unfit: skip leaves texts out that their frames can't hold; say how many may be:"
                " data.skip_bad_samples"
            )
        return self

    def held_out_by(self, split: Split) -> Literal["hash", "position", "group"]:
        """How a split's rows are picked, said or by what ``prepare`` needs."""
        if split.group is not None:
            return "group"
        needs_neighbors = self.prepare is not None and self.prepare.needs_neighbors
        return split.by or ("position" if needs_neighbors else "hash")
