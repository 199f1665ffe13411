"""A number that is not finite is traced to a parameter, or to a site and a datum."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from inference import SVI, Dataset, Observer, Split, fit
from inference.evaluation import evaluate
from inference.evaluation.not_finite import blame_site

BAD = 37
"""Place of the datum that a program can't take: its first value is 9."""


class Model(nn.Module):
    """z ~ N(0, 1), x | z ~ N(z w, s(x)), whose scale may fail at a datum."""

    def __init__(self, scale: Callable[[Tensor], Tensor], name: str = "x") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.scale, self.name = scale, name

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            scale = self.scale(x).expand(x.shape)
            pyro.sample(self.name, dist.Normal(z * self.weight, scale).to_event(1), obs=x)


class Guide(nn.Module):
    """q(z | x) = N(W x, t(x))."""

    def __init__(self, scale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.loc = nn.Linear(3, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc(x), self.scale(x)).to_event(1))


def one(x: Tensor) -> Tensor:
    return torch.ones_like(x[:, :1])


def nan_at_nine(x: Tensor) -> Tensor:
    return torch.where(x[:, :1] == 9, float("nan"), 1.0)


def zero_at_nine(x: Tensor) -> Tensor:
    return (x[:, :1] != 9).float()


def inf_at_nine(x: Tensor) -> Tensor:
    return torch.where(x[:, :1] == 9, float("inf"), 1.0)


def data() -> Dataset:
    x = torch.randn(3, 60, 3, generator=torch.Generator().manual_seed(0))
    x[:, BAD, 0] = 9
    train, valid, test = map(Split, x)
    return Dataset("mine", train, valid, test)


CASES = {
    "nan in the likelihood": (nan_at_nine, one, "x", "model", "nan"),
    "scale of 0 in the likelihood": (zero_at_nine, one, "x", "model", "-inf|nan"),
    "scale of infinity in the likelihood": (inf_at_nine, one, "x", "model", "-inf"),
    "nan in the guide": (one, nan_at_nine, "z", "guide", "nan"),
    "scale of 0 in the guide": (one, zero_at_nine, "z", "guide", "nan"),
    "scale of infinity in the guide": (one, inf_at_nine, "z", "guide", "nan|inf|-inf"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_site_and_a_datum_are_named(case: str) -> None:
    in_model, in_guide, site, half, value = CASES[case]
    said = blame_site(Model(in_model), Guide(in_guide), data().test, "test")
    assert said is not None
    assert f"Site '{site}' in the {half}" in said
    assert any(f": {each} at test[{BAD}]" in said for each in value.split("|"))
    assert blame_site(Model(one), Guide(one), data().test, "test") is None


@pytest.mark.parametrize("case", CASES)
def test_training_names_it(case: str) -> None:
    in_model, in_guide, site, half, _ = CASES[case]
    svi = SVI(Model(in_model), Guide(in_guide), compile="off")
    where = rf"on train .*Site '{site}' in the {half}.*at train\[{BAD}\]"
    with pytest.raises(FloatingPointError, match=where):
        fit(svi, data(), epochs=2, batch_size=20)


@pytest.mark.parametrize("case", CASES)
def test_validation_names_it(case: str) -> None:
    in_model, in_guide, site, half, _ = CASES[case]
    good = data()
    good.train.stored[BAD, 0] = 0
    svi = SVI(Model(in_model), Guide(in_guide), compile="off")
    where = rf"on valid .*Site '{site}' in the {half}.*at valid\[{BAD}\]"
    with pytest.raises(FloatingPointError, match=where):
        fit(svi, good, epochs=2, batch_size=20)


def test_evaluation_names_it() -> None:
    where = rf"nan for 1 of 60 data, first for test\[{BAD}\]. Site 'x' in the model"
    with pytest.raises(FloatingPointError, match=where):
        evaluate(Model(nan_at_nine), Guide(one), data().test, particles=3, name="test")
    pair = Model(one), Guide(one)
    with torch.no_grad():
        pair[1].loc.weight[0, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"loc.weight is nan in 1 of its 3 elements"):
        evaluate(*pair, data().test, particles=3)


def test_a_step_that_was_too_long_is_told_from_a_datum() -> None:
    good = data()
    for split in (good.train, good.valid):
        split.stored[BAD, 0] = 0
    svi = SVI(Model(one), Guide(one), compile="off")

    with pytest.raises(FloatingPointError, match="A step was too long: with earlier weights all"):
        fit(svi, good, epochs=9, batch_size=20, watch=[Lengthen()])


class Lengthen(Observer):
    """Makes the steps after the first epoch far too long."""

    def step(self, step: int, svi: SVI) -> None:
        if step == 4:
            svi.optimizer.param_groups[0]["lr"] = 1e30
