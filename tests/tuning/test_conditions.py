"""The conditions of samples are part of what their files are known by."""

import torch

from latestart.denoisers.adapter import as_network
from latestart.denoisers.conditions import Conditions
from latestart.tuning.tune import _of_conditions

NETWORK = as_network(lambda x, t, **_: x, shape=(2,))


def of(**kwargs):
    return _of_conditions(Conditions(NETWORK, None, kwargs))


def test_other_conditions_are_other_samples():
    one, other = torch.zeros(4, 3), torch.ones(4, 3)
    assert of(text=one) == of(text=one.clone())
    assert len({of(), of(text=one), of(text=other), of(tone=one), of(text={"a": one, "b": other})}) == 5
