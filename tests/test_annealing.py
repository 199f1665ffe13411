"""Annealed importance sampling against closed forms and quadrature.

Statistical assertions are |z| < 4, wrong once in 16,000 (once in 30,000 where one-sided); the seeds
are fixed. Most test E w = p(x), which holds for any number of distributions and any step size, so
that a wrong Jacobian, kinetic energy, place on the path or leapfrog fails them (tried, each).
"""

import math
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import guides
import models
from inference.evaluation.annealing import Annealed, ais, bdmc, schedule
from inference.sites import sites_of

from .pairs import PAIRS, discrete, rows, shared_weight
from .scenarios import LinearGaussian, linear_gaussian
from .test_curved import grid as sphere
from .test_exact import best_diagonal

FEW: dict[str, Any] = {"chains": 4, "distributions": 3, "leapfrog": 2, "show_progress": False}


def unbiased(result: Annealed, log_px: Tensor) -> None:
    """E w / p(x) = 1: the mean over all chains and data, |z| < 4."""
    ratio = (result.log_weights - log_px).exp()
    z = (ratio.mean() - 1) / (ratio.std() / ratio.numel() ** 0.5)
    assert abs(z) < 4
    assert ratio.std() < 1.5  # else the test has no power


def wide(truth: LinearGaussian) -> guides.Amortized:
    """A diagonal guide with twice the posterior's marginal variances, so that weights are bounded.

    2 diag(S) - S is positive definite for every 2 x 2 covariance S, here s2 M^-1.
    """
    guide = best_diagonal(truth)
    with torch.no_grad():
        _, bias = guide.encoder.parameters()
        variance = truth.variance * torch.linalg.inv(truth.precision).diagonal()
        bias[2:] = 0.5 * (2 * variance).log()
    return guide


def quadrature(model: Any, x: Tensor, grid: dict[str, Tensor], cell: Tensor) -> Tensor:
    """log p(x) (B,): each datum's joint density summed over a grid of G values of z.

    Args:
        model: the model.
        x: the data (B, D).
        grid: values of each latent site (G, *event).
        cell: what each point of the grid counts, (G,).
    """
    values = {name: value.unsqueeze(1) for name, value in grid.items()}
    with pyro.plate("grid", len(cell), dim=-2), pyro.condition(data=values):
        found = sites_of(model, (x,))
    joint = sum(found[name].log_prob() for name in (*grid, "x"))
    return (joint + cell.log().unsqueeze(1)).logsumexp(0)


def two_real(x: Tensor) -> None:
    """A latent pair, one given the other, and Bernoulli bits that tell their product."""
    weight = torch.tensor([1.5, -1.0, 2.0], dtype=x.dtype)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        b = pyro.sample("b", dist.Normal(0.5 * a, 0.8))
        logits = (a * b).unsqueeze(-1) * weight + a.unsqueeze(-1)
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def positive(x: Tensor) -> None:
    """A Gamma rate, an interval whose end it is, and bits."""
    two = torch.tensor(2.0, dtype=x.dtype)
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Gamma(two, two))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        logits = torch.stack([5 * a - 4, 6 * b - 2, 3 * a - 6 * b], -1)
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def rate(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        r = pyro.sample("r", dist.Gamma(torch.tensor(2.0, dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Poisson(r), obs=x)


def rate_guide(x: Tensor) -> None:
    """Off the posterior Gamma(2 + x, 2) in place, width and family, its tails heavier."""
    with pyro.plate("data", len(x)):
        pyro.sample("r", dist.LogNormal(((1.5 + x) / 2).log(), 0.7))


def all_bits() -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)


def test_schedule_runs_from_0_to_1_as_a_sigmoid() -> None:
    b = schedule(10)
    assert len(b) == 11
    assert (b[0], b[-1]) == (0.0, 1.0)
    assert b[5] == pytest.approx(0.5)
    low, at_3 = 1 / (1 + math.exp(4)), 1 / (1 + math.exp(1.6))  # 4 (6 / 10 - 1) = -1.6
    assert b[3] == pytest.approx((at_3 - low) / (1 - 2 * low))


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_weights_average_to_the_closed_form(start: Any) -> None:
    truth = linear_gaussian()
    x, guide = truth.sample(100), wide(truth)
    T = 120 if start == "prior" else 20  # noqa: N806
    result = ais(
        truth.model(), guide, x, distributions=T, leapfrog=4, start=start, show_progress=False
    )
    log_px = truth.log_prob(x)
    unbiased(result, log_px)
    assert result.log_weights.shape == (16, 100)
    torch.testing.assert_close(result.log_px, result.log_weights.logsumexp(0) - math.log(16))
    slack = log_px - result.log_px
    assert slack.mean() > -4 * slack.std() / 10
    assert slack.mean() < 0.1
    assert 0.55 < result.acceptance.mean() < 0.75


def test_more_distributions_tighten_the_bound() -> None:
    """One chain: E log w <= log p(x), and log p(x) - E log w falls as T grows; paired, |z| < 4."""
    truth = linear_gaussian()
    x, guide, log_w = truth.sample(300), best_diagonal(truth), []
    for T in (1, 10, 60):  # noqa: N806
        r = ais(truth.model(), guide, x, chains=1, distributions=T, leapfrog=4, show_progress=False)
        log_w.append(r.log_px)
    for lower, upper in zip(log_w, [*log_w[1:], truth.log_prob(x)], strict=True):
        rise = upper - lower
        assert rise.mean() > 4 * rise.std() / 300**0.5


def test_one_distribution_is_importance_sampling() -> None:
    """T = 1: log w has the guide's mean, the ELBO, whose closed form is log p(x) - gap."""
    truth = linear_gaussian()
    x = truth.sample(100)
    r = ais(truth.model(), best_diagonal(truth), x, chains=50, distributions=1, show_progress=False)
    gap = truth.log_prob(x) - r.log_weights
    z = (gap.mean() - truth.diagonal_gap) / (gap.std() / gap.numel() ** 0.5)
    assert abs(z) < 4
    assert r.acceptance.isnan().all()


def test_bdmc_encloses_the_truth_ever_closer() -> None:
    """Means within the errors, one-sided; with T from 4 to 60 the gap at least halves."""
    truth = linear_gaussian()
    like, gaps = torch.zeros(300, 5, dtype=torch.float64), []
    for T in (4, 60):  # noqa: N806
        s = bdmc(
            truth.model(), None, like, chains=4, distributions=T, leapfrog=4, start="prior",
            show_progress=False,
        )  # fmt: skip
        found = s.summary()
        gaps.append(found["gap"])
        assert found["gap"] > -4 * found["gap_se"]
        # The mean of log p(x) over simulated data is minus the entropy of N(mu, C).
        covariance = truth.weight @ truth.weight.T + 0.3 * torch.eye(5, dtype=torch.float64)
        mean = -dist.MultivariateNormal(truth.mean, covariance).entropy().item()
        assert found["lower"] < mean + 4 * found["lower_se"]
        assert found["upper"] > mean - 4 * found["upper_se"]
    assert gaps[1] < gaps[0] / 2
    assert gaps[1] < 0.3


def test_bdmc_from_a_guide_uses_the_simulated_data() -> None:
    """From the exact posterior every weight is p(x): the two bounds are one, to rounding."""
    s = bdmc(rate, posterior, torch.zeros(20, dtype=torch.float64), **FEW)
    torch.testing.assert_close(s.lower, s.upper)
    assert s.lower.std() > 0.1


def posterior(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("r", dist.Gamma(2 + x, 2.0))


def test_bernoulli_bits_against_quadrature() -> None:
    """Two latent sites, the posterior of two modes; grid of 401 x 401 over +-6."""
    x = all_bits()
    line = torch.linspace(-6, 6, 401, dtype=x.dtype)
    a, b = torch.cartesian_prod(line, line).unbind(1)
    cell = torch.full_like(a, (12 / 400) ** 2)
    log_px = quadrature(two_real, x, {"a": a, "b": b}, cell)
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-6)
    r = ais(
        two_real, None, x, chains=300, distributions=30, leapfrog=5, start="prior",
        show_progress=False,
    )  # fmt: skip
    unbiased(r, log_px)


def test_positive_and_dependent_supports_against_quadrature() -> None:
    """Gamma on the half-line and an interval (0, a): midpoints of a in (0, 15) and of b / a."""
    x = all_bits()
    a = (torch.arange(1500, dtype=x.dtype) + 0.5) / 100
    share = (torch.arange(100, dtype=x.dtype) + 0.5) / 100
    a, share = torch.cartesian_prod(a, share).unbind(1)
    log_px = quadrature(positive, x, {"a": a, "b": a * share}, a / 100 / 100)
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-4)
    r = ais(
        positive, None, x, chains=1000, distributions=20, leapfrog=5, start="prior",
        show_progress=False,
    )  # fmt: skip
    unbiased(r, log_px)


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("latent_dim", [2, 3])
def test_sphere_against_quadrature(latent_dim: int, start: Any) -> None:
    """Steep slopes over a circle or a sphere; the guide is off the posterior in place and width."""
    x = all_bits()
    slopes = torch.linspace(-4, 4, 3 * latent_dim, dtype=x.dtype).reshape(latent_dim, 3)
    prior = models.UniformSphere(latent_dim).to(x.dtype)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Bernoulli(logits=z @ slopes).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        family = guides.PowerSpherical(latent_dim)
        towards = torch.cat([(x - 0.5) @ slopes.T, torch.full_like(x[:, :1], -0.5)], -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(towards))

    z, area = sphere(latent_dim)
    log_px = quadrature(model, x, {"z": z}, area)
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-6)
    r = ais(
        model, guide, x, chains=300, distributions=20, leapfrog=5, start=start,
        show_progress=False,
    )  # fmt: skip
    unbiased(r, log_px)


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_positive_support_against_the_negative_binomial(start: Any) -> None:
    """r ~ Gamma(2, 1), x ~ Poisson(r): p(x) = (x + 1) / 2^(x + 2)."""
    x = torch.arange(8.0, dtype=torch.float64)
    log_px = (x + 1).log() - (x + 2) * math.log(2)
    r = ais(
        rate, rate_guide, x, chains=300, distributions=20, leapfrog=5, start=start,
        show_progress=False,
    )  # fmt: skip
    unbiased(r, log_px)


NOT_ANNEALED = {
    "discrete", "semi-supervised", "auto semi-supervised", "shared weight", "sigmoid belief",
    *(name for name in PAIRS if name.startswith("discrete ")),
}  # fmt: skip
"""Pairs with a discrete site, or with one outside the data plate."""


@pytest.mark.parametrize("name", rows(sorted(PAIRS.keys() - NOT_ANNEALED)))
def test_local_continuous_pairs_have_bounds(name: str) -> None:
    pair = PAIRS[name]()
    before = torch.get_rng_state()
    warns = nullcontext() if pair.carries_particles else pytest.warns(UserWarning, match="carry")
    with warns:
        one = ais(pair.model, pair.guide, pair.x, start="guide", **FEW)
    two = ais(pair.model, pair.guide, pair.x, start="prior", **FEW)
    three = bdmc(pair.model, pair.guide, pair.x, **FEW)
    for value in (one.log_weights, two.log_weights, three.lower, three.upper):
        assert value.isfinite().all()
        assert value.shape[-1] == 6
    assert torch.equal(torch.get_rng_state(), before)
    again = ais(pair.model, pair.guide, pair.x, start="guide", **FEW)
    assert torch.equal(one.log_weights, again.log_weights)


def test_modes_and_parameters_are_left_alone() -> None:
    pair = PAIRS["bernoulli"]()
    pair.model.train()
    ais(pair.model, pair.guide, pair.x, **FEW)
    for program in (pair.model, pair.guide):
        assert program.training
        assert all(p.requires_grad and p.grad is None for p in program.parameters())


def test_a_repeated_batch_gives_the_weights_of_a_plate() -> None:
    """Pairs that cannot carry particles draw the same numbers, in another shape."""
    truth = linear_gaussian()
    x, model = truth.sample(5), truth.model()

    def stubborn(x: Tensor) -> None:
        stack: Any = pyro.poutine.runtime._PYRO_STACK
        if any(getattr(handler, "dim", 0) == -2 for handler in stack):
            raise RuntimeError("no plate at -2 here")
        model(x)

    plate = ais(model, None, x, start="prior", **FEW)
    with pytest.warns(UserWarning, match="cannot carry"):
        tiled = ais(stubborn, None, x, start="prior", **FEW)
    torch.testing.assert_close(plate.log_weights, tiled.log_weights)


def test_a_plate_inside_a_datum_belongs_to_it() -> None:
    """Three words of each of four texts, in a plate to the left: p(x) is a product of normals."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.plate("words", 3):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.T)

    x = torch.randn(4, 3, dtype=torch.float64)
    log_px = dist.Normal(0.0, 3**0.5).log_prob(x).sum(1)  # z1 + z2 + noise, of variance 3
    with pytest.warns(UserWarning, match="cannot carry"):
        r = ais(
            model, None, x, chains=300, distributions=20, leapfrog=3, start="prior",
            show_progress=False,
        )  # fmt: skip
    unbiased(r, log_px)


def reads_x_twice(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z + 3 * x.roll(1, -1).sum(-1), 0.1), obs=x)


def observes_a_part(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=2 * x)


def test_refusals_name_site_and_remedy() -> None:
    pair = discrete()
    with pytest.raises(ValueError, match="Site 'b' is discrete.*Sum the site out"):
        ais(pair.model, pair.guide, pair.x, **FEW)
    pair = shared_weight()
    with pytest.raises(ValueError, match="Site 'w' lies outside.*Move the site into pyro.plate"):
        ais(pair.model, pair.guide, pair.x, **FEW)
    x = torch.arange(4.0)
    with pytest.raises(ValueError, match="'r', 'z' is in one of model and guide only"):
        ais(observes_a_part, rate_guide, x, **FEW)
    with pytest.raises(ValueError, match="got None. Give one, or start='prior'"):
        ais(rate, None, x, **FEW)
    wrong: Any = "posterior"
    with pytest.raises(ValueError, match="got 'posterior'"):
        ais(rate, rate_guide, x, start=wrong, **FEW)
    with pytest.raises(ValueError, match="chains of at least 1; got 0"):
        ais(rate, rate_guide, x, chains=0)
    with pytest.raises(ValueError, match="Site 'x' observes no tensor of the batch as it is"):
        bdmc(observes_a_part, None, x, start="prior", **FEW)
    with pytest.raises(ValueError, match="reads x besides observing it"):
        bdmc(reads_x_twice, None, x, start="prior", **FEW)
