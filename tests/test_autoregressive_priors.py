"""Priors of codes that follow each other: masses by enumeration, order, what they can learn."""

import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

import models
from inference import (
    SVI,
    DisArm,
    Elbo,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    Rebar,
    Relax,
    StraightThrough,
    load_run,
)
from scripts import _commands as commands

from .pairs import DISCRETE, bits, vae
from .test_discrete import values_of

pytestmark = pytest.mark.usefixtures("in_doubles")

PRIORS = [
    lambda: models.AutoregressiveBernoulli(5, hidden=[3]),
    lambda: models.AutoregressiveBernoulli(6, hidden=[16, 12]),
    lambda: models.AutoregressiveCategorical(1, 4),
    lambda: models.AutoregressiveCategorical(4, 3, hidden=[16, 12]),
]


def moved(prior: models.Prior) -> models.Prior:
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return prior


@pytest.mark.parametrize("make", PRIORS)
def test_masses_sum_to_one_and_draws_follow_them(make: Any) -> None:
    """The chi-square of 40,000 draws over all values lies within 4 of its deviations."""
    pyro.set_rng_seed(1)
    with torch.no_grad():
        law = moved(make())()
        values = values_of(law.event_shape)
        mass = law.log_prob(values).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-12)
        drawn = law.expand([100]).sample(torch.Size([400])).flatten(0, 1).flatten(1)
        count = (drawn[:, None] == values.flatten(1)).all(-1).double().sum(0)
        assert count.sum() == 40_000
        often = mass * 40_000 > 5
        chi = ((count - 40_000 * mass).square() / (40_000 * mass))[often].sum()
        freedom = int(often.sum()) - 1
        assert abs(chi - freedom) / math.sqrt(2 * freedom) < 4


def test_each_code_sees_those_before_it_alone() -> None:
    prior = models.AutoregressiveCategorical(4, 3, hidden=[16, 12])
    z = torch.randn(50, 4, 3, requires_grad=True)
    for code in range(4):
        (slope,) = torch.autograd.grad(prior.network(z)[:, code].square().sum(), z)
        assert (slope[:, :code].abs().sum((0, 2)) > 0).all()
        assert (slope[:, code:] == 0).all()


@pytest.mark.parametrize("of_bits", [True, False])
def test_it_learns_codes_that_depend_on_each_other_to_their_entropy(of_bits: bool) -> None:
    """The cross entropy over all values, exactly, to 0.01 nats.

    The first element is uniform; the second is the first, and the third the sum of both, in 95%
    of codes. All single elements are uniform or close to it, so that products stay
    0.61 nats above for bits and more for choices.
    """
    pyro.set_rng_seed(2)
    count = 2 if of_bits else 3
    prior: Any = (
        models.AutoregressiveBernoulli(3, hidden=[32])
        if of_bits
        else models.AutoregressiveCategorical(3, 3, hidden=[32])
    )
    values = values_of(prior().event_shape)
    place = values.long() if of_bits else values.argmax(-1)
    shifts = torch.stack([place[:, 1] - place[:, 0], place[:, 2] - place[:, 1] - place[:, 0]])
    rest = 0.05 / (count - 1)
    mass = torch.where(shifts % count == 0, 0.95, rest).prod(0) / count
    entropy = -(mass * mass.log()).sum()
    one_hot = values if values.dim() == 3 else torch.stack([1 - values, values], -1)
    margins = (mass[:, None, None] * one_hot).sum(0)
    apart = -(margins * margins.log()).sum()  # the best product's cross entropy
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        cross = -(mass * prior().log_prob(values)).sum()
        cross.backward()
        optimizer.step()
    cross = -(mass * prior().log_prob(values)).sum()
    assert 0 <= cross - entropy < 0.01
    assert apart - entropy > 0.6


ESTIMATORS = [Rebar, Relax, DisArm, StraightThrough, Enumerate]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["following bits", "following codes"])
def test_estimators_of_discrete_sites_train_it(name: str, estimator: type[Estimator]) -> None:
    pyro.set_rng_seed(3)
    pair = vae(models.Bernoulli, bits(), *DISCRETE[name])
    objective = Elbo(2, estimator())
    svi = SVI(pair.model, pair.guide, objective=objective, compile="graph")
    for _ in range(3):
        assert svi.step(pair.x).bound.isfinite()
    assert svi.captured == "graph"


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (Elbo(2, GumbelSoftmax()), "in the model. Take ScoreFunction, Vimco"),
        (Elbo(2, analytic_kl=True), "no closed form is known for the KL of"),
    ],
    ids=str,
)
def test_what_needs_independent_codes_is_refused(objective: Elbo, said: str) -> None:
    pair = vae(models.Bernoulli, bits(), *DISCRETE["following codes"])
    with pytest.raises(ValueError, match=said):
        objective(pair.model, pair.guide, pair.x)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 values of each code; got 1"):
        models.AutoregressiveCategorical(2, 1)
    with pytest.raises(ValueError, match="at least one hidden layer; got hidden="):
        models.AutoregressiveBernoulli(2, hidden=[])


def test_from_the_command_line(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    run = str(tmp_path / "run")
    commands.main(
        ["train", "--prior", "AutoregressiveCategorical", "--prior.values", "3", "--guide",
         "Categorical", "--guide.values", "3", "--latent_dim", "4", "--estimator", "DisArm",
         "--objective.particles", "2", "--encoder.hidden", "[8]", "--decoder.hidden", "[8]",
         "--epochs", "2", "--run", run]
    )  # fmt: skip
    commands.main(["evaluate", run, "--particles", "5"])
    commands.main(["sample", run])
    model: Any = load_run(run).model
    assert model.prior().event_shape == (4, 3)
