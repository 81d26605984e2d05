"""Transforms: what is done to named tensors, batch by batch, while training reads."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.section import Section
from orchestrator.spec.numbers import Positive


class TensorTransform(Section):
    """What all transforms have."""

    tensor: str
    """The named tensor."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that it needs."""
        return (self.tensor,)

    @property
    def in_evaluation(self) -> Self:
        """The same as evaluation and trained models do it: what is drawn in training is not drawn there."""
        return self


class Normalize(TensorTransform):
    """Subtract the mean and divide by the standard deviation, both fitted on the training split."""

    kind: Literal["normalize"] = "normalize"
    """The transform."""
    per: Literal["element", "channel", "tensor"] = "channel"
    """One mean for each element, for each index of the first dimension, or one for all."""


class Scale(TensorTransform):
    """Multiply by a factor, then add an offset."""

    kind: Literal["scale"] = "scale"
    """The transform."""
    factor: float = 1.0
    """Multiplied with."""
    offset: float = 0.0
    """Added."""


class Encode(TensorTransform):
    """Values such as words into whole numbers from 0, by the sorted values of the training split."""

    kind: Literal["encode"] = "encode"
    """The transform."""
    tensor: str
    """The named tensor: one column (``label``) or several (``categories``), each encoded by itself."""
    unseen: Literal["error", "unknown"] = "error"
    """A value that no training sample has: an error, or a number of its own, the last one."""


class Impute(TensorTransform):
    """Fill missing values in, column by column, with what the training split says."""

    kind: Literal["impute"] = "impute"
    """The transform."""
    by: Literal["median", "mean", "constant", "category"] = "median"
    """``median`` or ``mean`` of the column's training values, a ``constant``, or, for words, a ``category`` of its own
    (``<missing>``), which ``encode`` then numbers like any other."""
    value: float | str = 0.0
    """The constant: a number, or a word in a column of words."""
    indicator: bool = False
    """Append a column for each that lacks values in the training split: 1 where the value was missing, else 0."""

    @model_validator(mode="after")
    def _no_answers(self) -> Impute:
        if self.tensor == "label":
            raise ValueError(
                "an imputed label would be an invented answer; leave such rows out: {kind: drop, tensor: label}"
            )
        if self.by == "category" and self.indicator:
            raise ValueError("by: category is an indicator itself; leave indicator out")
        return self


class Drop(TensorTransform):
    """Leave rows out in which the tensor lacks a value: before training, once, so that the order of samples knows
    nothing of them. ``plan`` says how many. A trained model refuses such rows.
    """

    kind: Literal["drop"] = "drop"
    """The transform. It looks at the data as it is, before all others."""


class Date(TensorTransform):
    """Dates and times into numbers: the named parts, one after the other for each column. Missing dates become missing
    numbers, for ``impute``.
    """

    kind: Literal["date"] = "date"
    """The transform."""
    parts: Annotated[
        tuple[Literal["year", "month", "day", "weekday", "hour", "minute", "days"], ...], Field(min_length=1)
    ] = ("year", "month", "weekday")
    """Which, in this order. ``weekday``: 0 is Monday; ``days``: days since 1970, with fractions."""
    cyclic: bool = True
    """Month, day, weekday, hour and minute as sine and cosine, so that December is beside January: two numbers each."""
    format: str | None = None
    """Of dates that are text, as ``strptime`` reads it, e.g. ``"%d.%m.%Y"``. Default: ISO 8601."""


class Clip(TensorTransform):
    """Set values below a bound or above one to it."""

    kind: Literal["clip"] = "clip"
    """The transform."""
    low: float | None = None
    """Least value. Default: none."""
    high: float | None = None
    """Greatest value. Default: none."""
    quantile: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Where above 0, each column's own bounds: below and above them lies this share of its training values."""

    @model_validator(mode="after")
    def _has_bounds(self) -> Clip:
        if (self.low is None and self.high is None) == (self.quantile == 0):
            raise ValueError("give low, high or both, or else quantile")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is more than high {self.high}")
        return self


class Log(TensorTransform):
    """The logarithm of one plus the absolute value, with the value's sign: for amounts that
    spread over orders of magnitude.
    """

    kind: Literal["log"] = "log"
    """The transform."""


class Quantile(TensorTransform):
    """Each column's values by their place among its training values: uniform in 0..1, or as a normal distribution has
    them, whatever their own distribution is.
    """

    kind: Literal["quantile"] = "quantile"
    """The transform."""
    quantiles: Annotated[int, Field(ge=2, le=10_000)] = 100
    """Landmarks of each column; values in between are interpolated."""
    output: Literal["uniform", "normal"] = "uniform"
    """The distribution that comes out."""


class Join(TensorTransform):
    """Put the columns of other tensors behind those of this one, so that each kind of column can have transforms of its
    own; the others are then gone.
    """

    kind: Literal["join"] = "join"
    """The transform."""
    append: Annotated[tuple[str, ...], Field(min_length=1)]
    """The other tensors, in this order. If there is no tensor of the name yet, they make it."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensor and those that are put behind it."""
        return (self.tensor, *self.append)


class Resize(TensorTransform):
    """Images to one size, bilinear."""

    kind: Literal["resize"] = "resize"
    """The transform."""
    tensor: str = "image"
    """The named tensor."""
    height: Positive
    """New height in pixels."""
    width: Positive
    """New width in pixels."""


class RandomCrop(TensorTransform):
    """Pad training images with zeros and cut out a random place of the old size (He et al. 2015, section 4.2).
    Evaluation images stay whole.
    """

    kind: Literal["random_crop"] = "random_crop"
    """The transform."""
    tensor: str = "image"
    """The named tensor."""
    padding: Positive
    """Pixels added on each side."""


class RandomFlip(TensorTransform):
    """Mirror training images left and right at random. Evaluation images stay as they are."""

    kind: Literal["random_flip"] = "random_flip"
    """The transform."""
    tensor: str = "image"
    """The named tensor."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often."""


class Resample(TensorTransform):
    """Encoded sounds to one sampling rate, as they are decoded, by a polyphase filter (scipy's ``resample_poly``)."""

    kind: Literal["resample"] = "resample"
    """The transform."""
    tensor: str = "signal"
    """The named tensor."""
    rate: Positive
    """Samples a second."""


class Pad(TensorTransform):
    """Signals (channels, steps) to one length, by zeros at their end. Of encoded sounds, ``length`` then says how many steps
    of each are its own, which recurrent families and ``ctc`` heed.
    """

    kind: Literal["pad"] = "pad"
    """The transform."""
    tensor: str = "signal"
    """The named tensor."""
    length: Positive
    """Steps: samples of a sound (16,000 are a second at 16 kHz), frames behind ``mel``."""
    longer: Literal["error", "cut"] = "error"
    """A longer one is an error, or loses its end."""


class Crop(TensorTransform):
    """A piece of each signal (channels, steps), of one length."""

    kind: Literal["crop"] = "crop"
    """The transform."""
    tensor: str = "signal"
    """The named tensor."""
    length: Positive
    """Steps of the piece: samples of a sound, frames behind ``mel``."""
    place: Literal["random", "center", "start"] = "random"
    """Where it is cut out. ``random``: drawn for each sample and epoch; in evaluation the center. Nothing is cut from the
    silence behind a padded sound while its own steps are enough."""

    @property
    def in_evaluation(self) -> Crop:
        """From the center where training draws."""
        return self.model_copy(update={"place": "center"}) if self.place == "random" else self


class Mel(TensorTransform):
    """Sounds (channels, samples) to log-mel spectrograms in decibels, as ``librosa.power_to_db`` of
    ``librosa.feature.melspectrogram`` computes them: frames of a periodic Hann window, centered, silence beyond both ends;
    Slaney's mel scale and area norm. A sound of n samples has 1 + n // hop frames.
    """

    kind: Literal["mel"] = "mel"
    """The transform."""
    tensor: str = "signal"
    """The named tensor."""
    rate: Positive = 16_000
    """Samples a second of the sounds; held against theirs."""
    mels: Positive = 80
    """Bands."""
    window: Annotated[int, Field(ge=2, multiple_of=2)] = 400
    """Samples of a frame, an even number."""
    hop: Positive = 160
    """Samples from one frame to the next."""
    low: Annotated[float, Field(ge=0)] = 0.0
    """Lowest frequency, in hertz."""
    high: Annotated[float, Field(gt=0)] | None = None
    """Highest frequency, in hertz. Default: half of the rate."""
    top_db: Annotated[float, Field(gt=0)] | None = 80.0
    """What lies more decibels below a sample's loudest value is raised to there. ``null``: nothing is."""
    layout: Literal["signal", "image"] = "signal"
    """``signal``: (channels x mels, frames), as recurrent families and ``cnn`` with ``dimensions: 1`` read them; ``image``:
    (channels, mels, frames), as ``cnn`` reads images."""

    @model_validator(mode="after")
    def _fits(self) -> Mel:
        high = self.high or self.rate / 2
        if not self.low < high <= self.rate / 2:
            raise ValueError(
                f"frequencies must rise from low ({self.low:g}) to high ({high:g}), at most half of the rate"
                f" ({self.rate / 2:g})"
            )
        return self


class SpecAugment(TensorTransform):
    """Hide random bands of frequencies and stretches of time in training spectrograms (Park et al. 2019, arXiv:1904.08779).
    They become 0, so let ``normalize`` stand before, which makes that the mean. Evaluation hears everything.
    """

    kind: Literal["spec_augment"] = "spec_augment"
    """The transform."""
    tensor: str = "signal"
    """The named tensor."""
    frequency_masks: Annotated[int, Field(ge=0)] = 2
    """Bands that are hidden in each sample."""
    frequency_width: Positive = 8
    """Mels of a band at most; its width is drawn from 0 on."""
    time_masks: Annotated[int, Field(ge=0)] = 2
    """Stretches that are hidden in each sample."""
    time_width: Positive = 20
    """Frames of a stretch at most; its width is drawn from 0 on."""


class Spell(TensorTransform):
    """Texts into the numbers of their characters, for ``ctc``: the tensor becomes ``target`` and ``target_length``. 0 is
    the blank; characters are numbered from 1 on, by the sorted ones of the training split.
    """

    kind: Literal["spell"] = "spell"
    """The transform. It stands after those that change how many frames there are."""
    tensor: str = "text"
    """The named tensor, of texts."""
    length: Positive = 256
    """Characters of a text at most; a longer one is an error."""
    frames: str = "signal"
    """The tensor whose last dimension, or ``length``, must hold the text: a frame for each character, and one more
    between two that are alike."""
    unfit: Literal["error", "skip"] = "error"
    """A text that the frames can't hold, or, in evaluation, one with a character that no training text has, is an error, or a
    bad sample of which ``data.skip_bad_samples`` allows some."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The text, and what it is held against."""
        return (self.tensor, self.frames)


Transform = Annotated[
    Drop
    | Impute
    | Date
    | Encode
    | Clip
    | Log
    | Quantile
    | Normalize
    | Scale
    | Join
    | Resize
    | RandomCrop
    | RandomFlip
    | Resample
    | Pad
    | Crop
    | Mel
    | SpecAugment
    | Spell,
    Field(discriminator="kind"),
]
