"""PerturbMax against closed forms and simulation; smooth surrogates against their limits.

Truths: the derivations in the docstrings of the tests; z-tests at |z| < 4.5.
"""

import itertools
import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import guides
import models
from inference import SVI, Elbo, Enumerate, Rebar, check
from models import (
    EXPONENTIAL,
    GUMBEL,
    LOGISTIC,
    NORMAL,
    UNIFORM,
    Noise,
    PerturbMax,
    smooth_accuracy,
    smooth_f1,
    smooth_maximum,
    smoothed,
)

from .pairs import EVENT, LATENT, bits, vae

pytestmark = pytest.mark.usefixtures("in_doubles")

NOISES: dict[str, Noise] = {
    "gumbel": GUMBEL,
    "exponential": EXPONENTIAL,
    "uniform": UNIFORM,
    "normal": NORMAL,
    "logistic": LOGISTIC,
    # A user's own: log density and quantile function alone, and the ends that it has.
    "laplace": Noise(
        lambda e: -e.abs() - math.log(2),
        lambda t: torch.where(t < 0.5, (2 * t).log(), -(2 * (1 - t)).log()),
    ),
    "own gumbel": Noise(GUMBEL.log_density, GUMBEL.quantile),
    "triangle": Noise(  # density 2 e on (0, 1)
        lambda e: (2 * e.clamp(min=1e-300)).log(), torch.sqrt, lower=0.0, upper=1.0
    ),
}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("size", [2, 3, 7])
def test_chances(name: str, size: int) -> None:
    """They sum to 1 to 1e-6, follow the order, stay when all move, and are the simulated ones."""
    noise = NOISES[name]
    pyro.set_rng_seed(size)
    locations = 0.7 * torch.randn(3, size)
    p = PerturbMax(locations, noise)
    assert (p.probs.sum(-1) - 1).abs().max() < 1e-6
    assert (noise.log_chances(locations).exp().sum(-1) - 1).abs().max() < 1e-6
    order = locations.argsort(-1)
    assert (p.probs.gather(-1, order).diff(dim=-1) > -1e-7).all()
    torch.testing.assert_close(PerturbMax(locations + 3.3, noise).probs, p.probs, rtol=0, atol=1e-7)
    with torch.no_grad():
        drawn = p.sample(torch.Size([40_000]))
    assert (drawn.sum(-1) == 1).all()
    error = (p.probs * (1 - p.probs) / 40_000).sqrt().clamp(min=1e-9)
    assert ((drawn.mean(0) - p.probs) / error).abs().max() < 4.5


TWO: dict[str, Any] = {
    "gumbel": torch.sigmoid,
    "own gumbel": torch.sigmoid,
    "normal": lambda d: torch.special.ndtr(d / 2**0.5),
    "exponential": lambda d: 1 - (-d).exp() / 2,
    "uniform": lambda d: torch.where(d < 1, 1 - (1 - d).square() / 2, 1.0),
    # P(a - b < d), logistics: 1 / (1 - e^-d) - d e^-d / (1 - e^-d)^2
    "logistic": lambda d: 1 / -torch.expm1(-d) - d * (-d).exp() / torch.expm1(-d).square(),
    # of two Laplace variables: one less a quarter of e^-d times 2 + d
    "laplace": lambda d: 1 - (-d).exp() * (2 + d) / 4,
}


@pytest.mark.parametrize("name", TWO)
def test_two_classes_in_closed_form(name: str) -> None:
    """Values to 1e-6 and slopes to 5e-5, at differences from 0.01 to 8."""
    d = torch.tensor([0.01, 0.3, 0.9, 1.7, 4.0, 8.0]).requires_grad_()
    expected = TWO[name](d)
    found = PerturbMax(torch.stack([d, torch.zeros(6)], -1), NOISES[name]).logits.exp()[:, 0]
    (slope,) = torch.autograd.grad(expected.sum(), d)
    (mine,) = torch.autograd.grad(found.sum(), d)
    accurate = 2e-6 if name == "laplace" else 1e-6  # its density has a corner inside
    torch.testing.assert_close(found, expected, rtol=0, atol=accurate)
    torch.testing.assert_close(mine, slope, rtol=0, atol=20 * accurate)


def symmetric(w: Tensor, k: int) -> float:
    """Return the elementary symmetric polynomial of degree k."""
    picks = [math.prod(c) for c in itertools.combinations(w.tolist(), k)]
    return sum(picks)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_exponential_noise_has_a_closed_form(size: int) -> None:
    """p_i = sum_k (-1)^k e_k(w_-i) u^(k+1) / (k+1), u = e^(mu_i - max), w_j = e^(mu_j - mu_i)."""
    mu = torch.randn(size)
    found = PerturbMax(mu, EXPONENTIAL).logits.exp()
    for i in range(size):
        u = (mu[i] - mu.max()).exp()
        w = (torch.cat([mu[:i], mu[i + 1 :]]) - mu[i]).exp()
        terms = [(-1) ** k * symmetric(w, k) * u ** (k + 1) / (k + 1) for k in range(size)]
        assert found[i].item() == pytest.approx(float(sum(terms)), abs=1e-9)


def test_bounded_noise_breaks_the_order_one_way() -> None:
    """mu = (3, 0.5, 0) and noise on (0, 1): the last two are never the largest, and have p = 0."""
    p = PerturbMax(torch.tensor([3.0, 0.5, 0.0]), UNIFORM).logits.exp()
    torch.testing.assert_close(p, torch.tensor([1.0, 0.0, 0.0]), atol=1e-12, rtol=0)
    wide = PerturbMax(torch.tensor([3.0, 0.5, 0.0]), NORMAL).logits.exp()
    assert wide[1] > wide[2] > 0


@pytest.mark.parametrize("name", NOISES)
def test_slopes(name: str) -> None:
    noise = NOISES[name]
    mu = torch.tensor([0.4, -0.2, 0.1, 0.6], requires_grad=True)
    step = 1e-4
    (slope,) = torch.autograd.grad(noise.log_chances(mu).exp()[1], mu)
    with torch.no_grad():
        ups = torch.stack([noise.log_chances(mu + step * e).exp()[1] for e in torch.eye(4)])
        downs = torch.stack([noise.log_chances(mu - step * e).exp()[1] for e in torch.eye(4)])
    torch.testing.assert_close(slope, (ups - downs) / (2 * step), atol=2e-3, rtol=0)


def test_soft_draws() -> None:
    """They have a gradient, and go to the hard ones of the same noise with the temperature."""
    mu = torch.randn(5, 3, requires_grad=True)
    pyro.set_rng_seed(1)
    soft = PerturbMax(mu, NORMAL, temperature=1e-4).rsample()
    pyro.set_rng_seed(1)
    hard = PerturbMax(mu, NORMAL).sample()
    torch.testing.assert_close(soft.detach(), hard, atol=1e-3, rtol=0)
    (slope,) = torch.autograd.grad(PerturbMax(mu, NORMAL).rsample().square().sum(), mu)
    assert slope.ne(0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expanded(dtype: torch.dtype) -> None:
    p = PerturbMax(torch.randn(3, 4, dtype=dtype), NORMAL).expand((2, 3))
    assert p.batch_shape == (2, 3)
    assert p.sample((5,)).shape == (5, 2, 3, 4)
    assert p.sample().dtype == p.logits.dtype == dtype
    assert p.log_prob(p.sample()).shape == (2, 3)


@pytest.mark.parametrize("noise", ["exponential", "normal"])
def test_a_pair_of_them_trains(noise: str) -> None:
    """As prior and as guide, with estimators for discrete sites."""
    torch.set_default_dtype(torch.float32)

    class Prior(models.LearnedCategorical):
        def law(self, logits: Tensor) -> PerturbMax:
            return PerturbMax(logits, NOISES[noise])

    class Family(guides.Categorical):
        def law(self, logits: Tensor) -> PerturbMax:
            return PerturbMax(logits, NOISES[noise])

    pair = vae(models.Bernoulli, bits(), partial(Prior, values=3), partial(Family, values=3))
    assert check(pair.model, pair.guide, pair.x) == []
    how: Any = "graph"
    for estimator in (Rebar(), Enumerate()):
        svi = SVI(pair.model, pair.guide, objective=Elbo(4, estimator), compile=how)
        before = svi.evaluate(pair.x, Elbo(300)).bound
        for _ in range(30):
            svi.step(pair.x)
        assert svi.captured == "graph"
        assert svi.evaluate(pair.x, Elbo(300)).bound > before
    assert pair.model.prior().event_shape == (LATENT, 3)
    assert pair.x.shape[1:] == EVENT


def test_a_classifiers_head() -> None:
    """Two classes by normal noise are the probit's, its maximum likelihood on 2,000 labels."""
    x = torch.randn(2000)
    label = torch.bernoulli(torch.special.ndtr((0.5 + x) / 2**0.5))
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=8, line_search_fn="strong_wolfe")
    value = torch.stack([label, 1 - label], -1)

    def loss() -> Tensor:
        optimizer.zero_grad()
        score = weight[0] + weight[1] * x
        head = PerturbMax(torch.stack([score, torch.zeros(2000)], -1), NORMAL)
        nll = -head.log_prob(value).mean()
        nll.backward()
        return nll

    optimizer.step(loss)  # type: ignore[arg-type]
    torch.testing.assert_close(weight.detach(), torch.tensor([0.5, 1.0]), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PerturbMax(torch.zeros(3), temperature=0.0), "temperature above 0; got 0.0"),
        (lambda: PerturbMax(torch.zeros(1)), r"at least 2 locations; got shape \(1,\)"),
        (lambda: PerturbMax(torch.zeros(())), r"at least 2 locations; got shape \(\)"),
    ],
)
def test_wrong_uses(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_smooth_maximum() -> None:
    x = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    for tau in (1.0, 0.1, 0.001):
        above = smooth_maximum(x, tau) - x.amax(-1)
        assert (above >= 0).all()
        assert (above <= tau * math.log(3) + 1e-12).all()
    torch.testing.assert_close(smooth_maximum(x, 1e-6), x.amax(-1), atol=1e-5, rtol=0)


def test_smooth_accuracy_and_f1() -> None:
    logits, label = torch.randn(200, 4), torch.randint(4, (200,))
    exact = (logits.argmax(-1) == label).double().mean()
    torch.testing.assert_close(smooth_accuracy(logits, label, 1e-6), exact, atol=1e-6, rtol=0)
    guess, truth = torch.bernoulli(torch.full((2, 100), 0.4))
    hits, misses = (guess * truth).sum(), (guess - truth).abs().sum()
    torch.testing.assert_close(smooth_f1(guess, truth), 2 * hits / (2 * hits + misses))
    assert smooth_f1(torch.zeros(5), torch.zeros(5)) == 0


def test_a_smoothed_step() -> None:
    """The step becomes the normal's distribution function, and its slope the kernel itself."""
    x = torch.tensor([-2.0, -0.3, 0.0, 0.4, 3.0], requires_grad=True)
    for width in (1.0, 0.1):
        found = smoothed(lambda v: (v > 0).double() + 0.5 * (v == 0), x, width)
        torch.testing.assert_close(found, torch.special.ndtr(x / width), atol=3e-3, rtol=0)
        (slope,) = torch.autograd.grad(found.sum(), x)
        kernel = dist.Normal(0.0, width).log_prob(x).exp()
        torch.testing.assert_close(slope, kernel, atol=2e-3 / width, rtol=0)
    torch.testing.assert_close(
        smoothed(torch.floor, torch.tensor([0.5, 2.5]), 1e-3), torch.tensor([0.0, 2.0])
    )
