import pytest

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.trainable import count_trainable

COUNTS = Counts(1000, 6000, 50, (("model/a.weight", 900), ("model/a.bias", 100)))


@pytest.mark.parametrize(
    ("freeze", "trainable"),
    [((), 1000), (("model/a.bias",), 900), (("*.weight",), 100), (("nothing", "*.bias"), 900)],
)
def test_frozen_parameters_are_not_counted(freeze, trainable):
    assert count_trainable(COUNTS, freeze) == trainable


@pytest.mark.parametrize(
    ("freeze", "says"),
    [
        (("*",), "freeze every parameter"),
        (("*.weight", "*.bias"), "freeze every parameter"),
        (("nothing*",), r"no parameter matches nothing\*; names are like model/a.weight, model/a.bias"),
        (("*.WEIGHT",), "no parameter matches"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(freeze, says):
    with pytest.raises(SpecError, match=says):
        count_trainable(COUNTS, freeze)
