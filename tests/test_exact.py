"""Answers that are known: linear-Gaussian models, identities of the ELBO, enumeration.

Statistical assertions are |z| < 4, wrong once in 16,000; the seeds are fixed.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import guides
import models
from inference import SVI, Elbo, log_weights
from inference.data import Dataset, Split, View
from inference.evaluation import evaluate
from inference.log_weights import read
from inference.programs import run_at
from inference.training import fit

from .scenarios import ExactPosterior, LinearGaussian, linear_gaussian


def test_elbo_at_the_exact_posterior_is_log_px() -> None:
    truth = linear_gaussian()
    x = truth.sample(20)
    weights = log_weights(truth.model(), ExactPosterior(truth), x, particles=7)
    expected = truth.log_prob(x).expand(7, 20)
    torch.testing.assert_close(weights.total, expected, rtol=0, atol=1e-6)


def test_log_px_has_the_low_rank_form() -> None:
    """The d-dimensional density against the q-dimensional determinant and quadratic form."""
    truth = linear_gaussian()
    x = truth.sample(20)
    d, q = truth.weight.shape
    residual = x - truth.mean
    projected = residual @ truth.weight
    whitened = torch.linalg.solve(truth.precision, projected, left=False)
    quadratic = (residual.square().sum(1) - (whitened * projected).sum(1)) / truth.variance
    log_det = (d - q) * math.log(truth.variance) + torch.logdet(truth.precision)
    expected = -0.5 * (d * math.log(2 * math.pi) + log_det + quadratic)
    torch.testing.assert_close(truth.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_bound_lies_between_elbo_and_log_px() -> None:
    """L_1 <= L_2 <= L_10 <= L_50 <= log p(x), each step up, for a diagonal q."""
    truth = linear_gaussian()
    x = truth.sample(300)
    guide = best_diagonal(truth)
    log_px = truth.log_prob(x)
    previous = None
    for particles in (1, 2, 10, 50):
        bound = evaluate(
            truth.model(), guide, Split(x, Double()), particles=particles, show_progress=False
        ).log_px.double()
        slack = log_px - bound
        assert slack.mean() > -4 * slack.std() / 300**0.5
        if previous is not None:
            rise = bound - previous
            assert rise.mean() > -4 * rise.std() / 300**0.5
        previous = bound


def test_gap_of_the_best_diagonal_posterior() -> None:
    """Mean of log p(x) - log w over draws is the closed form, |z| < 4."""
    truth = linear_gaussian()
    x = truth.sample(200)
    gap = truth.log_prob(x) - log_weights(truth.model(), best_diagonal(truth), x, 500).total
    z = (gap.mean() - truth.diagonal_gap) / (gap.std() / gap.numel() ** 0.5)
    assert truth.diagonal_gap > 0.3
    assert abs(z) < 4


def test_trained_guide_recovers_the_diagonal_gap() -> None:
    truth = linear_gaussian(torch.float32)
    model, guide = truth.model().requires_grad_(False), truth.diagonal_guide()
    x = truth.sample(1000)
    data = Dataset("linear", Split(x), Split(truth.sample(500)), Split(truth.sample(500)))
    nn.init.zeros_(next(guide.encoder.parameters()))
    svi = SVI(
        model,
        guide,
        lambda p: torch.optim.Adam(p, lr=0.03),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.98),
    )
    fit(svi, data, epochs=250, batch_size=100, show_progress=False)
    weights = log_weights(model, guide, x, 200).total.detach()
    gap = (truth.log_prob(x) - weights).mean().item()
    assert gap == pytest.approx(truth.diagonal_gap, abs=0.01)


def test_trained_pair_reaches_the_maximum_likelihood() -> None:
    """A linear VAE ends at probabilistic PCA's maximum, where W's columns are orthogonal.

    mean log p = -1/2 [d log 2 pi + sum_i<=q log l_i + (d - q) log s2 + d], with l the eigenvalues
    of the sample covariance and s2 the mean of those left out (Tipping and Bishop 1999); a
    diagonal posterior loses nothing there (Lucas et al. 2019).
    """
    truth = linear_gaussian(torch.float32)
    x = truth.sample(1000)
    d, q = truth.weight.shape
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[q:].mean()
    best = -0.5 * (
        d * math.log(2 * math.pi) + eigenvalues[:q].log().sum() + (d - q) * noise.log() + d
    )
    model = models.VAE(models.StandardNormal(q), nn.Linear(q, d), models.Normal((d,)))
    guide = guides.Amortized(nn.Linear(d, 2 * q), guides.DiagonalNormal(q))
    svi = SVI(
        model,
        guide,
        lambda p: torch.optim.Adam(p, lr=0.03),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.98),
    )
    fit(
        svi,
        Dataset("linear", Split(x), Split(x), Split(x)),
        epochs=250,
        batch_size=100,
        show_progress=False,
    )
    elbo = svi.evaluate(x, Elbo(particles=200)).bound
    assert elbo.item() == pytest.approx(best.item(), abs=0.02)
    likelihood = model.likelihood
    assert isinstance(likelihood, models.Normal)
    assert likelihood.log_scale.exp().square().item() == pytest.approx(noise.item(), rel=0.05)


def test_elbo_is_log_px_less_the_divergence_from_the_posterior() -> None:
    """log p(x) = ELBO + KL(q || posterior), and ELBO = E log p(x|z) - KL(q || prior)."""
    truth = linear_gaussian()
    x = truth.sample(10)
    guide = truth.diagonal_guide()
    weights = log_weights(truth.model(), guide, x, 100_000)
    loc, log_scale = guide.encoder(x).chunk(2, -1)
    q = dist.Normal(loc, log_scale.exp()).to_event(1)
    full = dist.MultivariateNormal(loc, torch.diag_embed(log_scale.exp().square()))
    to_posterior = torch.distributions.kl_divergence(full, truth.posterior(x))
    se = weights.total.std(0) / 100_000**0.5
    assert (((weights.total.mean(0) + to_posterior - truth.log_prob(x)) / se).abs() < 4).all()
    prior = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
    to_prior = torch.distributions.kl_divergence(q, prior)
    closed_form = 0.5 * (loc.square() + (2 * log_scale).exp() - 2 * log_scale - 1).sum(-1)
    torch.testing.assert_close(to_prior, closed_form)
    se = weights.kl.std(0) / 100_000**0.5
    assert (((weights.kl.mean(0) - to_prior) / se).abs() < 4).all()


class _Table(PyroModule):
    """z one of 3 values, x one of 4: every distribution is a table."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.emission = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Categorical(logits=self.emission[z]), obs=x)


class _TableGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.table[x]))


def enumerated(model: _Table, guide: _TableGuide) -> tuple[Tensor, Tensor]:
    """log w (3, 4) for every z and x, and q(z | x) of the same shape."""
    x = torch.arange(4)
    rows = []
    for value in range(3):
        pair = run_at(model, guide, (x,), {"z": torch.full((4,), value)})
        rows.append(read(pair, 4, (1, 4)).total[0])
    return torch.stack(rows), guide.table.softmax(-1).T


def test_joint_divergence_is_minus_the_elbo_and_the_entropy_of_the_data() -> None:
    """KL(p~(x) q(z|x) || p(z) p(x|z)) = -E ELBO - H[p~] = KL(p~||p) + E KL(q || posterior)."""
    model, guide = _Table(), _TableGuide()
    log_w, q = enumerated(model, guide)
    data = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    log_joint = model.prior.log_softmax(0)[:, None] + model.emission.log_softmax(1)  # (z, x)
    joint_kl = (data * q * ((data * q).log() - log_joint)).sum()
    elbo = (q * log_w).sum(0)
    entropy = -(data * data.log()).sum()
    torch.testing.assert_close(joint_kl, -(data * elbo).sum() - entropy)
    log_px = log_joint.logsumexp(0)
    posterior_kl = (q * (q.log() - (log_joint - log_px))).sum(0)
    marginal_kl = (data * (data.log() - log_px)).sum()
    torch.testing.assert_close(joint_kl, marginal_kl + (data * posterior_kl).sum())


def test_score_function_gradient_is_the_enumerated_one() -> None:
    """Mean of 20,000 single-draw gradients of a Categorical guide against enumeration, |z| < 4."""
    model, guide = _Table(), _TableGuide()
    log_w, q = enumerated(model, guide)
    exact = torch.autograd.grad((q * log_w).sum(0).mean(), [model.prior, guide.table])
    draws = 20_000
    x = torch.arange(4).repeat(draws)  # the gradient of a mean is the mean of the gradients
    sums, squares = [torch.zeros_like(g) for g in exact], [torch.zeros_like(g) for g in exact]
    for chunk in x.reshape(200, -1):
        loss = Elbo()(model, guide, chunk).loss
        for i, g in enumerate(torch.autograd.grad(-loss, [model.prior, guide.table])):
            sums[i] += g / 200
            squares[i] += g.square() / 200
    for mean, square, truth in zip(sums, squares, exact, strict=True):
        se = ((square - mean.square()).clamp(min=1e-12) / 200).sqrt()
        assert (((mean - truth) / se).abs() < 4).all()


def test_svi_finds_the_posterior_of_a_table() -> None:
    model, guide = _Table().requires_grad_(False), _TableGuide()
    svi = SVI(model, guide, lambda p: torch.optim.Adam(p, lr=0.02), objective=Elbo(particles=64))
    for _ in range(600):
        svi.step(torch.arange(4))
    log_w, q = enumerated(model, guide)
    log_joint = model.prior.log_softmax(0)[:, None] + model.emission.log_softmax(1)
    torch.testing.assert_close((q * log_w).sum(0), log_joint.logsumexp(0), atol=0.01, rtol=0)


class Double(View):
    """A view that keeps float64."""

    @property
    def unit(self) -> str:
        return "nats"

    def __call__(self, stored: Tensor) -> Tensor:
        return stored


def best_diagonal(truth: LinearGaussian) -> guides.Amortized:
    """The diagonal guide with the posterior's mean and the variances s2 / M_ii."""
    guide = truth.diagonal_guide()
    d, q = truth.weight.shape
    gain = torch.linalg.solve(truth.precision, truth.weight.T)
    log_scale = 0.5 * (truth.variance / truth.precision.diagonal()).log()
    with torch.no_grad():
        weight, bias = guide.encoder.parameters()
        weight.copy_(torch.cat([gain, torch.zeros(q, d)]))
        bias.copy_(torch.cat([-gain @ truth.mean, log_scale]))
    return guide
