"""The semi-amortised guide: what its steps reach, and what goes through them."""

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from torch import nn

import guides
import models
from inference import Elbo, log_weights

from .pairs import bits, vae
from .scenarios import LinearGaussian, linear_gaussian

pytestmark = pytest.mark.usefixtures("in_doubles")


def guide(truth: LinearGaussian, family: guides.Family, **arguments: Any) -> guides.SemiAmortized:
    """Return a guide with an untrained encoder."""
    encoder = nn.Linear(len(truth.mean), family.parameter_dim)
    made = guides.SemiAmortized(encoder, family, **arguments)
    made.given(truth.model())
    return made


def test_steps_reach_each_datums_posterior() -> None:
    """From an untrained encoder: with four mirrored draws, its mean, exactly (the ELBO's gradient
    in it is linear), and its gap of the best diagonal normal, to what so few draws say of scales.
    """
    truth = linear_gaussian()
    x = truth.sample(6)
    before, after = (
        guide(truth, guides.DiagonalNormal(2), steps=steps, rate=0.02, draws=64)
        for steps in (1, 400)
    )
    after.load_state_dict(before.state_dict())
    q = after.refined(x)
    torch.testing.assert_close(q.mean, truth.posterior(x).mean, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        gaps = [
            (truth.log_prob(x) - log_weights(truth.model(), each, x, 4000).total.mean(0)).mean()
            for each in (before, after)
        ]
    assert gaps[0] > 5
    assert gaps[1] == pytest.approx(truth.diagonal_gap, abs=0.1)


def test_gradient_goes_through_the_steps() -> None:
    """Against finite differences, in an encoder's weight; without it the steps count as given."""
    slopes = {}
    for through in (True, False):
        pyro.set_rng_seed(1)
        pair = vae(
            models.Bernoulli,
            bits().double(),
            amortization=partial(guides.SemiAmortized, steps=2, rate=0.1, differentiate=through),
        )
        weight = pair.guide.encoder.layers.layers[1].bias

        def loss(pair: Any = pair) -> torch.Tensor:
            pyro.set_rng_seed(2)
            return Elbo(4)(pair.model, pair.guide, pair.x).loss

        (gradient,) = torch.autograd.grad(loss(), weight)
        with torch.no_grad():
            weight[0] += 1e-5
            high = loss()
            weight[0] -= 2e-5
            low = loss()
        slopes[through] = gradient[0].item(), ((high - low) / 2e-5).item()
    assert slopes[True][0] == pytest.approx(slopes[True][1], rel=1e-5)
    assert slopes[False][0] != pytest.approx(slopes[False][1], rel=1e-3)


def test_q_is_a_function_of_x() -> None:
    """Whatever the random state and the rest of the batch."""
    truth = linear_gaussian()
    x = truth.sample(6)
    q = guide(truth, guides.Planar(2), steps=3)
    z = torch.randn(6, 2)
    together, apart = q.refined(x).log_prob(z), q.refined(x[:2]).log_prob(z[:2])
    torch.testing.assert_close(together[:2], apart)


def test_wrong_arguments_are_refused_with_the_remedy() -> None:
    truth = linear_gaussian()
    with pytest.raises(ValueError, match="draws=3. Without steps take Amortized"):
        guide(truth, guides.DiagonalNormal(2), draws=3)
    with pytest.raises(TypeError, match="got _Mixture. Take DiagonalNormal"):
        guide(truth, guides.MixtureOfNormals(2)).refined(truth.sample(2))
    lost = guides.SemiAmortized(nn.Linear(5, 4), guides.DiagonalNormal(2))
    with pytest.raises(RuntimeError, match=r"call guide.given\(model\)"):
        lost.refined(truth.sample(2))
