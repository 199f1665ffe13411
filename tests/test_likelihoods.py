"""Likelihoods: masses sum and densities integrate to 1, values and means are right, extremes hold.

Statistical assertions are |z| < 4.5 for at most 72 means each, wrong once in 2,000; the seeds are
fixed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

import models
from inference.check import check
from inference.data import AnyCounts, AsIs, Counts, Dequantised, Grey, Levels, Words

from .pairs import EVENT, LIKELIHOODS, bits, counts, levels, vae

GREYS = torch.rand(6, *EVENT)
REALS = torch.randn(6, *EVENT)
INNER = torch.rand(6, *EVENT).clamp(0.01, 0.99)

TABLE: dict[str, tuple[Callable[[tuple[int, ...]], models.Likelihood], Tensor]] = {
    **{type(make(EVENT)).__name__: (make, x()) for make, x in reversed(LIKELIHOODS.values())},
    "Normal": (models.Normal, REALS),
    "OptimalNormal": (models.OptimalNormal, REALS),
    "HeteroscedasticNormal": (models.HeteroscedasticNormal, REALS),
    "Laplace": (models.Laplace, REALS),
    "StudentT": (models.StudentT, REALS),
    "MixtureOfDiscretisedLogistics": (models.MixtureOfDiscretisedLogistics, levels()),
    "Categorical": (models.Categorical, levels()),
    "Autoregressive": (models.Autoregressive, bits()),
}
"""The rows of tests/pairs.py by their class; these few differ, in x or in the number of levels."""

WITH_MEAN = [name for name in TABLE if name != "Autoregressive"]


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


in_double = pytest.mark.usefixtures("double")


def test_every_likelihood_is_in_the_table() -> None:
    found = {
        name
        for name in models.__all__
        if isinstance(part := getattr(models, name), type) and issubclass(part, models.Likelihood)
    }
    assert found - {"Likelihood"} == TABLE.keys()


def one(likelihood: models.Likelihood, parameters: Tensor, x: Tensor) -> Tensor:
    """The density of one element at each x, under each of (R, P) parameters: (R, len(x))."""
    p_x = likelihood(parameters.reshape(-1, 1, *likelihood.parameter_shape))
    return p_x.log_prob(x.unsqueeze(-1)).exp()


def parameters(likelihood: models.Likelihood, sizes: tuple[float, ...] = (0, 1, 3)) -> Tensor:
    shape = likelihood.parameter_shape
    return torch.stack([size * torch.randn(shape) for size in sizes])


@in_double
@pytest.mark.parametrize(
    "name", ["DiscretisedLogistic", "MixtureOfDiscretisedLogistics", "Categorical"]
)
def test_levels_sum_to_one(name: str) -> None:
    """Over the 256 values, also with logits of 30: the sum is exact but for rounding."""
    likelihood = TABLE[name][0]((1,))
    mass = one(likelihood, parameters(likelihood, (0, 1, 10, 30)), torch.arange(256) / 255)
    torch.testing.assert_close(mass.sum(-1), torch.ones(4), rtol=1e-10, atol=0)


@in_double
@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial"])
@pytest.mark.parametrize("log_r", [-1.0, 1.0, 12.0])
def test_counts_sum_to_one(name: str, log_r: float) -> None:
    """Over 0 ... 20,000, for means up to e^3 and r of 0.37 and more: P(beyond) < e^-300.

    The tail of a negative binomial falls by a factor 1 / (1 + r / mean) a count.
    """
    likelihood = TABLE[name][0]((1,))
    if isinstance(likelihood, models.NegativeBinomial):
        torch.nn.init.constant_(likelihood.log_r, log_r)
    at = torch.linspace(-3, 3, 5).expand(*likelihood.parameter_shape, 5).movedim(-1, 0)
    mass = one(likelihood, at.contiguous(), torch.arange(20_001.0))
    torch.testing.assert_close(mass.sum(-1), torch.ones(5), rtol=1e-10, atol=0)


@in_double
def test_multinomial_sums_to_one_over_each_total() -> None:
    x = torch.cartesian_prod(*[torch.arange(6.0)] * 3)
    p_x = models.Multinomial((3,), total_count=7)(torch.tensor([0.3, -1.0, 2.0]))
    for total in range(6):
        mass = p_x.log_prob(x[x.sum(1) == total]).exp().sum()
        assert mass.item() == pytest.approx(1, rel=1e-12)


@in_double
@pytest.mark.parametrize("name", ["Normal", "HeteroscedasticNormal", "Laplace", "StudentT"])
def test_densities_on_the_line_integrate_to_one(name: str) -> None:
    """x = tan(u), midpoints of u: the integrand is smooth but for a corner, errors < 1e-5."""
    likelihood = TABLE[name][0]((1,))
    cells = 100_000
    u = ((torch.arange(cells) + 0.5) / cells - 0.5) * math.pi
    density = one(likelihood, parameters(likelihood), u.tan()) / u.cos().square()
    torch.testing.assert_close(density.mean(-1) * math.pi, torch.ones(3), rtol=1e-5, atol=0)


@in_double
@pytest.mark.parametrize("name", ["ContinuousBernoulli", "Beta"])
def test_densities_on_the_interval_integrate_to_one(name: str) -> None:
    """x = sigmoid(u), u in +-60 in steps of 1/500: the trapezoidal rule is exact there."""
    likelihood = TABLE[name][0]((1,))
    at = torch.tensor([-30.0, -17.0, -1.0, -0.11, -0.09, -1e-4, 0.0, 0.05, 0.5, 20.0, 30.0])
    if name == "Beta":
        at = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, 5.0])] * 2)
    u = torch.arange(-30_000, 18_001) / 500  # beyond 36, sigmoid(u) is 1
    x = u.sigmoid()
    jacobian = x * (-u).sigmoid()
    integral = (one(likelihood, at, x) * jacobian).sum(-1) / 500
    torch.testing.assert_close(integral, torch.ones(len(at)), rtol=1e-7, atol=0)


@in_double
def test_log_probs_are_scipys() -> None:
    stats, h = scipy.stats, torch.tensor([[-2.0], [0.5], [3.0]])
    k, r = torch.arange(30.0), torch.linspace(-3, 3, 29)
    a = torch.nn.functional.softplus(torch.tensor([0.3, 2.0])) + 0.001
    negative = models.NegativeBinomial((1,))
    torch.nn.init.constant_(negative.log_r, 0.7)
    n = math.exp(0.7)
    mu = h.exp()
    logits = torch.tensor([0.3, -1.0, 2.0])
    x = torch.tensor([2.0, 0.0, 3.0])
    found_and_expected = [
        (one(models.Poisson((1,)), h, k).log(), stats.poisson.logpmf(k, mu)),
        (one(models.Poisson((1,), library=5.0), h, k).log(), stats.poisson.logpmf(k, 5 * mu)),
        (one(negative, h, k).log(), stats.nbinom.logpmf(k, n, n / (n + mu))),
        (one(models.Laplace((1,), 0.3), h, r).log(), stats.laplace.logpdf(r, h, 0.3)),
        (one(models.StudentT((1,), 3.0, 0.5), h, r).log(), stats.t.logpdf(r, 3, h, 0.5)),
        (
            one(models.Beta((1,)), torch.tensor([[0.3, 2.0]]), k[1:] / 31).log(),
            stats.beta.logpdf(k[1:] / 31, *a).reshape(1, -1),
        ),
        (
            models.Multinomial((3,))(logits).log_prob(x),
            stats.multinomial.logpmf(x.numpy(), 5, logits.softmax(0).numpy()),
        ),
    ]
    for found, expected in found_and_expected:
        torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("count", [0, 7, 1_000, 100_000, 3_000_000])
def test_large_counts_keep_their_digits(count: int) -> None:
    """In 32 bits, against SciPy in 64 at the same 32-bit parameters, to 1e-5 of it and 1e-4."""
    stats, k = scipy.stats, torch.tensor([float(count)])
    h = torch.tensor([[-3.0], [0.2], [9.5]])
    library = float(max(count, 1))
    poisson, negative = models.Poisson((1,), library), models.NegativeBinomial((1,), library)
    torch.nn.init.constant_(negative.log_r, 1.5)
    mu = poisson.log_mean(h).exp().double()
    n = math.exp(1.5)
    logits = torch.linspace(-3, 3, 2000)
    x = torch.multinomial(logits.softmax(0), max(count, 1), replacement=True).bincount(
        minlength=2000
    )
    x = x if count else torch.zeros(2000)
    found_and_expected = [
        (poisson(h).log_prob(k), stats.poisson.logpmf(count, mu).squeeze(-1)),
        (negative(h).log_prob(k), stats.nbinom.logpmf(count, n, n / (n + mu)).squeeze(-1)),
        (
            models.Multinomial((2000,))(logits).log_prob(x.float()),
            stats.multinomial.logpmf(x.numpy(), count, logits.double().softmax(0).numpy()),
        ),
    ]
    for found, expected in found_and_expected:
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.detach().double(), torch.as_tensor(expected), rtol=1e-5, atol=1e-4
        )


def test_negative_binomial_tends_to_poisson() -> None:
    """In float32 and at r = e^20, where differences of lgamma are off by hundreds of nats."""
    negative, h, k = models.NegativeBinomial((1,)), torch.tensor([[2.0]]), torch.arange(40.0)
    torch.nn.init.constant_(negative.log_r, 20.0)
    found, expected = (one(p, h, k).log() for p in (negative, models.Poisson((1,))))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@in_double
def test_discretised_logistic_is_a_difference_of_sigmoids() -> None:
    m, log_s = 0.2, -2.0
    found = one(models.DiscretisedLogistic((1,)), torch.tensor([m, log_s]), torch.arange(256) / 255)
    edges = torch.cat([torch.tensor([-math.inf]), (2 * torch.arange(1, 256) - 1) / 255 - 1])
    edges = torch.cat([edges, torch.tensor([math.inf])])
    s = math.exp(math.log1p(math.exp(log_s + 7)) - 7)
    torch.testing.assert_close(found[0], ((edges - m) / s).sigmoid().diff(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("size", [0.0, 30.0])
def test_extremes_are_finite(name: str, size: float) -> None:
    """float32, every parameter at 0 or +-30: log_prob, its gradients and the mean."""
    make, x = TABLE[name]
    likelihood = make(EVENT)
    signs = torch.bernoulli(torch.full((6, *likelihood.parameter_shape), 0.5)) * 2 - 1
    for at in (size * signs, torch.full_like(signs, size), torch.full_like(signs, -size)):
        at.requires_grad_()
        p_x = likelihood(at)
        log_prob = p_x.log_prob(x)
        assert log_prob.isfinite().all()
        wanted = [at, *likelihood.parameters()]
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), wanted))
        if name in WITH_MEAN:
            assert p_x.mean.isfinite().all()
        with torch.no_grad():
            assert p_x.sample().isfinite().all()


@pytest.mark.parametrize("name", TABLE)
def test_particles_expansion_and_support(name: str) -> None:
    make, x = TABLE[name]
    likelihood = make(EVENT).eval()  # in training a scale may follow the errors
    at = torch.randn(6, *likelihood.parameter_shape)
    p_x: Any = likelihood(at)
    assert (p_x.batch_shape, p_x.event_shape) == ((6,), EVENT)
    assert p_x.support.check(x).all()
    alone = p_x.log_prob(x)
    many = likelihood(at.expand(3, *at.shape)).log_prob(x)
    torch.testing.assert_close(many, alone.expand(3, 6))
    wide = p_x.expand((3, 6))
    torch.testing.assert_close(wide.log_prob(x), alone.expand(3, 6))
    if name in WITH_MEAN:
        assert p_x.mean.shape == x.shape
        torch.testing.assert_close(wide.mean, p_x.mean.expand(3, *x.shape))
    with torch.no_grad():
        drawn = wide.sample((2,))
    assert drawn.shape == (2, 3, *x.shape)
    assert p_x.support.check(drawn).all()


@pytest.mark.parametrize("name", WITH_MEAN)
def test_mean_of_draws_is_the_mean(name: str) -> None:
    """5,000 draws of each of 24 elements."""
    likelihood = TABLE[name][0](EVENT)
    p_x: Any = likelihood(torch.randn(2, *likelihood.parameter_shape))
    with torch.no_grad():
        drawn, mean = p_x.sample((5_000,)).double(), p_x.mean.double()
    z = (drawn.mean(0) - mean) / (drawn.std(0) / 5_000**0.5).clamp(min=1e-6)
    assert z.abs().max() < 4.5


def test_draws_have_the_distribution() -> None:
    """Frequencies of 20,000 draws of levels and of a continuous Bernoulli's deciles, |z| < 4.5."""
    for make in (models.DiscretisedLogistic, models.MixtureOfDiscretisedLogistics):
        likelihood = make((1,), levels=7)
        at = torch.randn(likelihood.parameter_shape)
        p = one(likelihood, at, torch.arange(8) / 7)[0]
        drawn = (likelihood(at).sample((20_000,)) * 7).round().long().flatten()
        found = drawn.bincount(minlength=8) / 20_000
        assert ((found - p) / (p * (1 - p) / 20_000).sqrt()).abs().max() < 4.5
    for logit in (-25.0, -0.05, 2.0):
        p_x = models.ContinuousBernoulli((1,))(torch.tensor([logit]))
        x = torch.tensor(torch.linspace(0.1, 0.9, 9).tolist())
        below = torch.expm1(logit * x) / math.expm1(logit)
        found = (p_x.sample((20_000,)) < x).float().mean(0)
        scale = (below * (1 - below) / 20_000).sqrt().clamp(min=1e-3)
        assert ((found - below) / scale).abs().max() < 4.5


@pytest.mark.parametrize("logit", [-3.0, -0.101, -0.099, -0.02, 0.0, 0.02, 0.099, 0.101, 3.0])
def test_continuous_bernoulli_draws_move_with_the_logit(logit: float) -> None:
    """x = log(1 - u + u e^l) / l and dx / dl, both in 64 bits, at the same uniform numbers."""
    at = torch.tensor([logit], requires_grad=True)
    torch.manual_seed(0)
    x = models.ContinuousBernoulli((1,))(at).rsample(torch.Size([500]))
    (slope,) = torch.autograd.grad(x.sum(), at)
    torch.manual_seed(0)
    u = torch.rand(500, 1).double()
    u = u if logit > 0 else 1 - u
    if logit:
        exact = torch.log1p(u * math.expm1(logit)) / logit
        of_log = u * math.exp(logit) / (1 + u * math.expm1(logit))
        slopes = (of_log - exact) / logit
    else:
        exact, slopes = u, u * (1 - u) / 2
    torch.testing.assert_close(x.double(), exact, rtol=1e-5, atol=1e-6)
    assert slope.item() == pytest.approx(slopes.sum().item(), rel=1e-4)


FOREIGN: list[tuple[str, Tensor, str]] = [
    ("Bernoulli", GREYS, r"outside the support of Bernoulli .*Take another likelihood"),
    ("ContinuousBernoulli", counts(), r"outside the support of ContinuousBernoulli"),
    ("ContinuousBernoulli", bits(), r"the data are 0 and 1 alone, and ContinuousBernoulli.*Take B"),
    ("Beta", bits(), r"outside the support of Beta \(0 < x < 1, the ends excluded: dequantise"),
    ("DiscretisedLogistic", counts(), r"outside the support of .*x in \{0, 1/255, ..., 1\}"),
    ("DiscretisedLogistic", GREYS, r"outside the support of .*x in \{0, 1/255, ..., 1\}"),
    ("DiscretisedLogistic", bits(), r"the data are 0 and 1 alone"),
    ("MixtureOfDiscretisedLogistics", GREYS, r"outside the support"),
    ("Categorical", levels(16), r"outside the support of Categorical \(x in \{0, 1/255"),
    ("Categorical", bits(), r"the data are 0 and 1 alone, and Categorical"),
    ("Poisson", GREYS, r"72 of 72 values of the data lie outside the support of Poisson"),
    ("Poisson", -counts(), r"outside the support of Poisson"),
    ("NegativeBinomial", REALS, r"outside the support of NegativeBinomial"),
    ("ZeroInflatedNegativeBinomial", GREYS, r"outside the support of ZeroInflated"),
    ("Multinomial", GREYS, r"72 of 72 values .* outside the support of Multinomial"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "x", "words"), FOREIGN)
def test_foreign_data_are_refused_in_words(name: str, x: Tensor, words: str) -> None:
    pyro.set_rng_seed(1)
    pair = vae(TABLE[name][0], x)
    with pytest.raises(AssertionError, match=words):
        assert check(pair.model, pair.guide, x) == []


@pytest.mark.parametrize(
    ("name", "x", "view", "words"),
    [
        ("Normal", levels(), Levels(255), "Normal has a density, and .* is that of a mass"),
        ("Laplace", counts(), AnyCounts(), "Laplace has a density"),
        ("ContinuousBernoulli", levels(), Levels(255), "ContinuousBernoulli has a density"),
        ("DiscretisedLogistic", levels(), Grey(255), "Logistic has a mass, .* of a density"),
        ("Normal", levels(), Grey(255), None),
        ("Beta", INNER, Dequantised(255), None),
        ("DiscretisedLogistic", levels(), Levels(255), None),
        ("Binomial", counts(), Counts(16), None),
        ("Multinomial", counts(), Words(), None),
        ("Normal", counts(), AsIs(), None),
    ],
)
def test_densities_and_masses_are_told_apart(
    name: str, x: Tensor, view: Any, words: str | None
) -> None:
    pair = vae(TABLE[name][0], x)
    faults = check(pair.model, pair.guide, x, view)
    if words is None:
        assert faults == []
    else:
        with pytest.raises(AssertionError, match=words):
            assert faults == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.Laplace(EVENT, scale=0.0), "scale above 0; got 0.0"),
        (lambda: models.HeteroscedasticNormal(EVENT, 0.0), "least_scale above 0"),
        (lambda: models.StudentT(EVENT, df=1.0), "more than 1 degree of freedom; got df=1.0"),
        (lambda: models.DiscretisedLogistic(EVENT, 0), "levels of at least 1; got 0"),
        (lambda: models.MixtureOfDiscretisedLogistics(EVENT, 0), "at least 1 component; got 0"),
        (lambda: models.Poisson(EVENT, library=0.0), "library above 0; got 0.0"),
        (lambda: models.Multinomial(EVENT, 0), "total_count of at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_optimal_scale_is_the_root_mean_square_error() -> None:
    """Of the data about their locations; in evaluation it stays, and the density is a normal's."""
    likelihood = models.OptimalNormal((4,), scale=3.0, rate=0.1)
    loc, x = torch.randn(500, 4), torch.randn(500, 4)
    error = (x - loc).square().mean()
    first = likelihood(loc).log_prob(x)
    torch.testing.assert_close(first, dist.Normal(loc, 3.0).to_event(1).log_prob(x))
    torch.testing.assert_close(likelihood.mean_square, 0.9 * 9 + 0.1 * error)
    for _ in range(150):
        likelihood(loc).log_prob(x)
    torch.testing.assert_close(likelihood.mean_square, error, rtol=1e-5, atol=0)
    # No other scale has a higher likelihood.
    best = likelihood(loc).log_prob(x).sum()
    for factor in (0.97, 1.03):
        assert dist.Normal(loc, factor * error.sqrt()).to_event(1).log_prob(x).sum() < best
    likelihood.eval()
    kept = likelihood.mean_square.clone()
    p = likelihood(loc[:1])
    apart = p.log_prob(x[:1])
    together = likelihood(loc).log_prob(x)[:1]
    torch.testing.assert_close(apart, together)
    assert torch.equal(likelihood.mean_square, kept)
    with pytest.raises(ValueError, match="rate above 0 and at most 1; got scale=1.0, rate=0"):
        models.OptimalNormal((4,), rate=0.0)
