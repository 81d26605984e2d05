"""One frozen config for each objective."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from orchestrator.models.configs.base import Count, FamilyConfig, ObjectiveConfig, Positive, Probability

NotNegative = Annotated[float, Field(ge=0)]
LabelMetric = Literal[
    "precision", "recall", "f1", "auroc", "average_precision", "confusion_matrix", "per_class"
]
NumberMetric = Literal["r2"]
TextMetric = Literal["perplexity"]
NextTokenMetric = Literal["perplexity", "bits_per_byte"]
WrittenMetric = Literal["perplexity", "exact_match", "bleu", "chrf"]


class _Asked(ObjectiveConfig):
    """An objective whose further metrics are called as they are asked for."""

    metrics: tuple[str, ...] = ()
    """What is measured beside the kind's own."""

    @property
    def measured(self) -> tuple[str, ...]:
        """As ``metrics`` says."""
        return self.metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Those of the kind, and those that were asked for."""
        return (*self.METRICS, *self.metrics)


class _OfLabels(ObjectiveConfig):
    """An objective whose samples (or tokens) have labels."""

    AVERAGED: ClassVar[bool] = True
    """Whether precision, recall and F1 are means over classes."""

    metrics: tuple[LabelMetric, ...] = ()
    """What is measured beside accuracy: ``precision``, ``recall``, ``f1`` (as ``f1_macro`` and ``f1_micro``; with
    ``binary`` as ``f1``), ``auroc``, ``average_precision`` (both keep the evaluation's scores in memory), ``confusion_matrix`` (a
    picture), ``per_class`` (the others of each class too, as ``f1/CLASS``)."""

    @property
    def measured(self) -> tuple[str, ...]:
        """As ``metrics`` says."""
        return self.metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Those of the kind, and those that were asked for."""
        ends = ("_macro", "_micro") if self.AVERAGED else ("",)
        rates = [name for name in self.metrics if name in ("precision", "recall", "f1")]
        ranked = [name for name in self.metrics if name in ("auroc", "average_precision")]
        return (*self.METRICS, *(f"{name}{end}" for name in rates for end in ends), *ranked)


class _OfClasses(_OfLabels):
    """An objective whose samples (or tokens) have one class of several."""

    top_k: tuple[Count, ...] = ()
    """For each number: whether the class is among so many most likely ones, as ``accuracy_top_5``."""
    label_smoothing: Probability = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2015, arXiv:1512.00567)."""
    class_weights: tuple[Positive, ...] | None = None
    """Weight of each class in the loss, in the order of the classes: the loss is the weighted mean. Default: all alike."""
    focal_gamma: NotNegative = 0.0
    """Exponent by which well-classified samples count less: the loss times (1 - probability of the class) ** gamma (Lin et
    al. 2017, arXiv:1708.02002)."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """With the accuracies of ``top_k``."""
        return (*super().metric_names, *(f"accuracy_top_{k}" for k in self.top_k))

    def misfit(self, model: FamilyConfig) -> str | None:
        """A weight for each class, and no more of the likeliest ones than there are."""
        classes = model.outputs_for(self)
        if self.class_weights is not None and len(self.class_weights) != classes:
            return f"objective.class_weights: {len(self.class_weights)} weights are given, but there are {classes} classes"
        if max(self.top_k, default=0) > classes:
            return f"objective.top_k: the {max(self.top_k)} likeliest classes are asked for, but there are {classes} classes"
        return None


class ClassificationConfig(_OfClasses):
    """Cross-entropy over classes; metrics: accuracy."""

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)

    kind: Literal["classification"] = "classification"
    """One class of several."""


class _MayLackLabels(ObjectiveConfig):
    """An objective of several labels, of which a sample may lack some."""

    missing_labels: bool = False
    """Samples may lack some of their labels (null, NaN), or all: what is not there counts in no loss and no metric, and what is
    there counts alike. When false a missing label is an error, or a bad sample."""

    @property
    def takes_missing_labels(self) -> bool:
        """As ``missing_labels`` says."""
        return self.missing_labels


class RegressionConfig(_Asked, _MayLackLabels):
    """Mean squared error; metrics: mse, mae."""

    METRICS: ClassVar[tuple[str, ...]] = ("mse", "mae")

    kind: Literal["regression"] = "regression"
    """One number or several."""
    metrics: tuple[NumberMetric, ...] = ()
    """What is measured beside the mean errors: ``r2``, the share of the variance that is explained."""


class BinaryConfig(_OfLabels):
    """Logistic loss of one yes-or-no label; metrics: accuracy."""

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)

    AVERAGED: ClassVar[bool] = False

    kind: Literal["binary"] = "binary"
    """Yes or no."""
    positive_weight: Positive = 1.0
    """Weight of the positive samples against the negative ones."""
    focal_gamma: NotNegative = 0.0
    """Exponent by which well-classified labels count less: the loss times (1 - probability of the label) ** gamma (Lin et
    al. 2017, arXiv:1708.02002)."""


class MultilabelConfig(_OfLabels, _MayLackLabels):
    """Logistic loss of several yes-or-no labels; metrics: accuracy."""

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)

    kind: Literal["multilabel"] = "multilabel"
    """Each class by itself, yes or no."""
    positive_weight: Positive = 1.0
    """Weight of the positive labels against the negative ones."""
    focal_gamma: NotNegative = 0.0
    """Exponent by which well-classified labels count less: the loss times (1 - probability of the label) ** gamma (Lin et
    al. 2017, arXiv:1708.02002)."""


class _Writes(ObjectiveConfig):
    """An objective whose models write texts."""

    beams: Count = 1
    """Texts that are gone on with at a time where one is written (in samples, ``predict`` and the logged model, and where evaluation writes): a
    beam search. 1: none; ``causal_lm`` draws, ``sequence_to_sequence`` takes the likeliest token each time."""
    length_penalty: NotNegative = 1.0
    """With beams: a text is worth its logarithmic probability over its tokens to this power. 0 compares sums, which favors
    short texts; 1 means."""

    @model_validator(mode="after")
    def _penalty_is_of_a_search(self) -> Self:
        if self.beams == 1 and self.length_penalty != 1:
            raise ValueError(
                f"length_penalty {self.length_penalty:g} is of a beam search, and beams is 1; give 2 or more, or leave it out"
            )
        return self

    def _too_many_beams(self, tokens: int | None) -> str | None:
        """A text begins with one of so many tokens; None where the model does not say."""
        if tokens is None or self.beams <= tokens:
            return None
        return f"objective.beams: {self.beams} is more than the {tokens} tokens that a text can go on with"


def _no_chunks(chunk_tokens: int | None, model: FamilyConfig) -> str | None:
    if chunk_tokens is None or model.scores_in_chunks:
        return None
    return f"objective.chunk_tokens: family {model.family} makes its logits by code of its own, all at once; leave it out"


class CausalLmConfig(_Asked, _Writes):
    """Cross-entropy of each next token; metrics: accuracy; perplexity is exp(loss)."""

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)

    kind: Literal["causal_lm"] = "causal_lm"
    """Predict each token from those before it."""
    metrics: tuple[NextTokenMetric, ...] = ()
    """What is measured beside accuracy: ``perplexity``, exp(loss); ``bits_per_byte``, what the model needs for a byte of text,
    whatever its tokens are."""
    chunk_tokens: Count | None = None
    """Tokens whose logits are held at a time, for a large vocabulary (gpt, bert, rnn, lstm, gru): their products are made anew in the
    backward, a third more time for the last layer; the same loss and gradients but for rounding. Default: all, at once."""
    packed: bool = False
    """The data has ``document``, the number of each token's document in its sequence: no token attends to another
    document's, and none is predicted from it."""

    @property
    def keeps_documents(self) -> bool:
        """As ``packed`` says."""
        return self.packed

    def misfit(self, model: FamilyConfig) -> str | None:
        """A model that reads forward, keeps documents apart where they are packed, and has as many tokens as beams."""
        if getattr(model, "bidirectional", False):
            return "model.bidirectional: a causal language model must not see what comes; set it to false"
        if self.packed and "document" not in model.input_tensors(self):
            return f"objective.packed: family {model.family} does not keep packed documents apart; set it to false"
        return _no_chunks(self.chunk_tokens, model) or self._too_many_beams(
            getattr(model, "vocabulary", None)
        )


class MaskedLmConfig(_Asked):
    """Cross-entropy of hidden tokens (Devlin et al. 2018, arXiv:1810.04805); metrics: accuracy."""

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)
    FROM_DATA: ClassVar[dict[str, str]] = {"mask_token": "mask_token", "special_tokens": "special_tokens"}

    kind: Literal["masked_lm"] = "masked_lm"
    """Predict hidden tokens from both sides."""
    metrics: tuple[TextMetric, ...] = ()
    """What is measured beside accuracy: ``perplexity``, exp(loss)."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens (or words) that is predicted; of these 80 % are hidden by the mask token, 10 % replaced by
    a random token, 10 % left as they are."""
    chunk_tokens: Count | None = None
    """Tokens whose logits are held at a time, for a large vocabulary (gpt, bert, rnn, lstm, gru): their products are made anew in the
    backward, a third more time for the last layer; the same loss and gradients but for rounding. Default: all, at once."""
    whole_words: bool = False
    """Choose words instead of tokens; the data has ``word``, the number of each token's word in its sequence."""
    mask_token: Annotated[int, Field(ge=0)] | None = None
    """Number of the mask token. Default: the tokenizer's."""
    special_tokens: tuple[int, ...] | None = None
    """Tokens that are never predicted. Default: the tokenizer's."""

    def misfit(self, model: FamilyConfig) -> str | None:
        """A mask token that the model has."""
        if self.mask_token is None:
            return "objective.mask_token: the data names no mask token; write its number"
        vocabulary = getattr(model, "vocabulary", None)
        if vocabulary is not None and self.mask_token >= vocabulary:
            return f"objective.mask_token {self.mask_token} is not below model.vocabulary {vocabulary}"
        return _no_chunks(self.chunk_tokens, model)


class SequenceToSequenceConfig(_Asked, _Writes):
    """Cross-entropy of each token of a target, from the source and the target's tokens before it (Sutskever et al. 2014,
    arXiv:1409.3215); metrics: accuracy, of tokens; evaluation's loss is without smoothing, so perplexity is exp(loss).
    """

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)
    FROM_DATA: ClassVar[dict[str, str]] = {"start_token": "start_token", "end_token": "end_token"}

    kind: Literal["sequence_to_sequence"] = "sequence_to_sequence"
    """Write one text from another."""
    label_smoothing: Probability = 0.0
    """Share of each real target spread over the whole vocabulary (Szegedy et al. 2015, arXiv:1512.00567); only in training."""
    metrics: tuple[WrittenMetric, ...] = ()
    """What is measured beside accuracy: ``perplexity``, exp(loss); ``exact_match``, the share of targets that are written
    token by token; ``bleu`` (Papineni et al. 2002) and ``chrf`` (Popovic 2015) of the texts that are
    written, 0 to 100, as sacrebleu computes them (install ``trainwright[text]``). With any but perplexity each evaluation writes a text
    for each sample."""
    start_token: Annotated[int, Field(ge=0)] | None = None
    """Token that a decoder begins with. Default: the architecture's, where its weights were trained with one, else the data's."""
    end_token: Annotated[int, Field(ge=0)] | None = None
    """Token that ends a text. Default: the tokenizer's."""

    def misfit(self, model: FamilyConfig) -> str | None:
        """Tokens that the model has, at least as many as beams, and a longest text where texts are compared."""
        if self.start_token is None or self.end_token is None:
            return "objective: the data names no start token or no end token; write start_token and end_token"
        target = model.input_tensors(self)["target"]
        for name, number in (("start_token", self.start_token), ("end_token", self.end_token)):
            if target.below is not None and number >= target.below:
                return f"objective.{name}: {number} is not below the model's {target.below} tokens"
        if target.longest is None and {"bleu", "chrf"} & set(self.metrics):
            return "objective.metrics: bleu and chrf need a model that knows its target_context"
        return self._too_many_beams(target.below)


class TokenClassificationConfig(_OfClasses):
    """Cross-entropy over classes of each token; metrics: accuracy."""

    METRICS: ClassVar[tuple[str, ...]] = ("accuracy",)

    kind: Literal["token_classification"] = "token_classification"
    """One class for each token; label -100 stands for none."""


class CtcConfig(ObjectiveConfig):
    """Texts from frames without an alignment (Graves et al. 2006, ICML); metrics: cer and wer, the character and word error
    rates of greedy decoding.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("cer", "wer")
    FROM_DATA: ClassVar[dict[str, str]] = {"space": "space"}

    kind: Literal["ctc"] = "ctc"
    """What is said in a sound."""
    space: Annotated[int, Field(ge=0)] | None = None
    """Number of the character between words; 0: there is none, each text is one word. Default: as ``spell`` numbers it."""


class ForecastingConfig(_Asked):
    """Error over the horizon and all series; metrics: mse, mae."""

    METRICS: ClassVar[tuple[str, ...]] = ("mse", "mae")

    kind: Literal["forecasting"] = "forecasting"
    """The next steps of some series."""
    loss: Literal["mse", "mae"] = "mse"
    """Squared or absolute error."""
    metrics: tuple[NumberMetric, ...] = ()
    """What is measured beside the mean errors: ``r2``, the share of the variance that is explained."""


class ReconstructionConfig(ObjectiveConfig):
    """Squared error of what comes back, summed over a sample, and KL divergence of a variational encoder."""

    METRICS: ClassVar[tuple[str, ...]] = ("mse", "kl")

    kind: Literal["reconstruction"] = "reconstruction"
    """Give back what came in; a sample's anomaly score is its mean squared error."""
    beta: NotNegative = 1.0
    """Weight of the KL divergence of a variational autoencoder (Higgins et al. 2017)."""
    noise: NotNegative = 0.0
    """Standard deviation of noise added to the input, to be removed (Vincent et al. 2008). Not in evaluation."""


class AdversarialConfig(ObjectiveConfig):
    """Generator against discriminator, in two phases of each step."""

    METRICS: ClassVar[tuple[str, ...]] = ("loss_generator", "score_real", "score_made")
    PHASES: ClassVar[tuple[str, ...]] = ("discriminator", "generator")

    kind: Literal["adversarial"] = "adversarial"
    """Make samples that a discriminator can't tell from real ones."""
    loss: Literal["non_saturating", "wasserstein", "hinge"] = "non_saturating"
    """Goodfellow et al. 2014 (arXiv:1406.2661); Arjovsky et al. 2017 (arXiv:1701.07875); Lim and Ye 2017
    (arXiv:1705.02894)."""
    gradient_penalty: NotNegative = 0.0
    """Weight of (|gradient| - 1)^2 between real and made samples (Gulrajani et al. 2017, arXiv:1704.00028: 10);
    ``wasserstein`` needs it, or the model's ``spectral_norm``."""
    ema_decay: Probability = 0.999
    """Decay, each step, of the averaged generator that samples are made with (Karras et al. 2017, arXiv:1710.10196)."""

    def misfit(self, model: FamilyConfig) -> str | None:
        """A bound on the slope where the loss needs one."""
        if self.loss != "wasserstein" or self.gradient_penalty or getattr(model, "spectral_norm", False):
            return None
        return (
            "objective.loss: wasserstein needs a bound on the discriminator's slope: set objective.gradient_penalty (10 is usual) or"
            " model.spectral_norm"
        )

    @property
    def differentiates_gradients(self) -> bool:
        """Its penalty is of a gradient."""
        return self.gradient_penalty > 0
