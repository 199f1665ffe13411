"""Every prior with every likelihood and every posterior family."""

import itertools
import math

import pyro
import pytest
import torch
from torch import Tensor

import guides
import models
from inference import SVI, Compile, Elbo, log_weights
from inference.check import check
from inference.evaluation import prior_samples, reconstructions

from .pairs import CURVED, DISCRETE, FAMILIES, LIKELIHOODS, PRIORS, Pair, vae

ALL_PRIORS = {"standard normal": models.StandardNormal, **PRIORS}
ALL_FAMILIES = {"diagonal normal": guides.DiagonalNormal, **FAMILIES}
TABLE = [
    *itertools.product(ALL_PRIORS, LIKELIHOODS, ALL_FAMILIES),
    *((name, likelihood, name) for name in {**CURVED, **DISCRETE} for likelihood in LIKELIHOODS),
]

NOT_CAPTURED = {"spline flow"}
"""Pyro's spline picks the coordinates within its bounds: a shape of their values."""

FEW = {
    (p, x, q)
    for (p, x, q), _ in zip(
        zip(*map(itertools.cycle, (ALL_PRIORS, LIKELIHOODS, ALL_FAMILIES)), strict=True),
        range(max(map(len, (ALL_PRIORS, LIKELIHOODS, ALL_FAMILIES)))),
        strict=False,
    )
}
"""Each part once at least; the others are for ``pytest --slow``."""


def rows() -> list[object]:
    return [
        pytest.param(*row, id="+".join(row), marks=() if row in FEW else pytest.mark.slow)
        for row in TABLE
    ]


def bounds(pair: Pair) -> Tensor:
    """Return L_1, L_5 and L_50 from the same draws."""
    pyro.set_rng_seed(7)
    with torch.no_grad():
        weights = log_weights(pair.model, pair.guide, pair.x, 50).total
    groups = (weights.unflatten(0, (-1, k)).logsumexp(1) - math.log(k) for k in (1, 5, 50))
    return torch.stack([group.mean() for group in groups])


@pytest.mark.parametrize(("prior", "likelihood", "family"), rows())
def test_combination(prior: str, likelihood: str, family: str) -> None:
    p_x, x = LIKELIHOODS[likelihood]
    data = x()

    def make() -> Pair:
        if prior in {**CURVED, **DISCRETE}:
            return vae(p_x, data, *{**CURVED, **DISCRETE}[prior])
        return vae(p_x, data, ALL_PRIORS[prior], ALL_FAMILIES[family])

    pair = make()
    assert check(pair.model, pair.guide, pair.x) == []
    # A captured step is compared with the eager one, so both are tried at once.
    how: Compile = "off" if prior in NOT_CAPTURED else "graph"
    svi = SVI(pair.model, pair.guide, adam, objective=Elbo(8), compile=how)
    svi.prepare(pair.x)
    before = svi.evaluate(pair.x, Elbo(200)).bound
    for _ in range(50):
        svi.step(pair.x)
    assert svi.evaluate(pair.x, Elbo(200)).bound > before

    found = bounds(pair)
    assert found.isfinite().all()
    assert found[0] <= found[1] <= found[2]

    for drawn in (prior_samples(pair.model, pair.x), reconstructions(*pair[:3])):
        assert drawn["x"].shape == pair.x.shape
        assert drawn["x"].isfinite().all()

    other = make()
    again = SVI(other.model, other.guide, adam)
    again.prepare(other.x)
    again.load_state_dict(svi.state_dict())
    torch.testing.assert_close(bounds(other), found, rtol=0, atol=0)


def adam(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)  # type: ignore[arg-type]
