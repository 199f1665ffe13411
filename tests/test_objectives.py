"""Objectives and estimators against exact values and exact gradients.

Two scenarios have the expectation of any reduction of K <= 2 log weights in closed form, to be
differentiated by autograd: a scalar latent by Gauss-Hermite quadrature over both draws, and eight
binary latents by enumeration of both. z-tests: |z| < 4.5 for each of about ten parameters, wrong
once in 15,000 a row; the seeds are fixed.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import (
    SVI,
    BetaTc,
    Bound,
    Chi,
    Ciwae,
    DoublyReparametrised,
    Elbo,
    Estimator,
    FreeBits,
    InfoVae,
    Iwae,
    KLWeight,
    MatchedMoments,
    Miwae,
    Objective,
    Pathwise,
    Piwae,
    Relax,
    Renyi,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
    Tvo,
    Vimco,
    WakeSleep,
)
from inference.log_weights import log_weights, read
from inference.objectives import bhattacharyya_distance, kl_divergence, wasserstein2
from inference.programs import run_at

from .objectives import BINARY, CHOICES, SCALAR
from .pairs import PAIRS
from .scenarios import ExactPosterior, linear_gaussian
from .test_exact import best_diagonal

DRAWS, CHUNKS = 20_000, 200


class ScalarModel(PyroModule):
    """z ~ N(0, 1), x ~ N(a z + sin(b z), 0.7^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.a * z + (self.b * z).sin(), 0.7), obs=x)


class ScalarGuide(PyroModule):
    """q(z | x) = N(slope x + shift, scale^2), not the posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Parameter(torch.tensor([0.3, 0.1], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = self.line[0] * x + self.line[1]
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()))


def quadrature(bound: Bound, model: ScalarModel, guide: ScalarGuide, x: Tensor) -> Tensor:
    """E F(log w(z_1), ..., log w(z_K)) for K <= 2, by 80 Gauss-Hermite nodes a draw."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(80)
    noise, mass = torch.tensor(nodes), torch.tensor(mass / mass.sum())
    loc, scale = guide.line[0] * x + guide.line[1], guide.log_scale.exp()
    z = loc + scale * noise
    log_w = (
        dist.Normal(model.a * z + (model.b * z).sin(), 0.7).log_prob(x)
        + dist.Normal(torch.zeros_like(z), 1.0).log_prob(z)
        - dist.Normal(loc, scale).log_prob(z)
    )
    return expectation(bound, log_w, mass)


def expectation(bound: Bound, log_w: Tensor, mass: Tensor) -> Tensor:
    """E F over K <= 2 independent draws of a discrete distribution of log weights (N,)."""
    if bound.particles == 1 or bound.additive:  # the mean over particles has that of each
        return (mass * log_w).sum()
    pairs = torch.stack(torch.broadcast_tensors(log_w[:, None], log_w[None, :]))  # (2, N, N)
    return (mass[:, None] * mass[None, :] * bound.reduce(pairs)).sum()


class BinaryModel(PyroModule):
    """Eight fair coins, x ~ N(net(z), I) in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 2).double()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((8,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class BinaryGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-1, 1, 8, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            fn = dist.Bernoulli(logits=self.logits.expand(len(x), 8)).to_event(1)
            pyro.sample("z", fn)


class ChoiceModel(PyroModule):
    """Three choices among four, x ~ N(net(z), I) in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 2).double()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            fair = dist.OneHotCategorical(logits=x.new_zeros(3, 4)).to_event(1)
            z = pyro.sample("z", fair)
            pyro.sample("x", dist.Normal(2 * self.net(z.flatten(-2)), 1.0).to_event(1), obs=x)


class ChoiceGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        logits = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3).T
        self.logits = nn.Parameter(logits.contiguous())

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = self.logits.expand(len(x), 3, 4)
            pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1))


def enumeration(bound: Bound, model: Any, guide: Any, x: Tensor) -> Tensor:
    """E F over all states, 256 of bits and 64 of choices, of each of K <= 2 draws."""
    if isinstance(model, ChoiceModel):
        states = torch.stack(list(map(torch.stack, itertools.product(torch.eye(4), repeat=3))))
    else:
        states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
    size = len(states)
    pair = run_at(model, guide, (x.expand(size, 2),), {"z": states.double()})
    weights = read(pair, size, (1, size))
    return expectation(bound, weights.total[0], weights.guide["z"][0].exp())


ROWS = [
    pytest.param(make, exact, bound, estimator, id=f"{name}-{bound}-{estimator}".replace(" ", ""))
    for name, make, exact, table in (
        ("scalar", lambda: (ScalarModel(), ScalarGuide()), quadrature, SCALAR),
        ("binary", lambda: (BinaryModel(), BinaryGuide()), enumeration, BINARY),
        ("choices", lambda: (ChoiceModel(), ChoiceGuide()), enumeration, CHOICES),
    )
    for bound, estimators in table
    for estimator in estimators
]


@pytest.mark.parametrize(("make", "exact", "bound", "estimator"), ROWS)
def test_value_and_gradient_are_exact_in_expectation(
    make: Callable[[], Any], exact: Callable[..., Tensor], bound: Bound, estimator: Estimator
) -> None:
    model, guide = make()
    x = torch.tensor([1.7], dtype=torch.float64)
    if isinstance(model, BinaryModel | ChoiceModel):
        x = torch.tensor([[0.4, -0.9]], dtype=torch.float64)
    chosen = type(bound)(**{**vars(bound), "estimator": estimator})
    truth = exact(bound, model, guide, x)
    named = [*model.parameters(), *guide.parameters()]
    gradients = torch.cat([g.flatten() for g in torch.autograd.grad(truth, named)])
    batch = x.expand(DRAWS // CHUNKS, *x.shape[1:])
    values, estimates = [], []
    for _ in range(CHUNKS):
        estimate = chosen(model, guide, batch)
        values.append(estimate.bound)
        parts = torch.autograd.grad(-estimate.loss, named)
        estimates.append(torch.cat([g.flatten() for g in parts]))
    for found, expected in (
        (torch.stack(values)[:, None], truth.detach()[None]),
        (torch.stack(estimates), gradients),
    ):
        se = found.std(0) / CHUNKS**0.5
        assert (((found.mean(0) - expected) / se.clamp(min=1e-12)).abs() < 4.5).all()


def mean_gradient(
    objective: Objective, model: nn.Module, guide: nn.Module, x: Tensor, chunks: int = CHUNKS
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the ascent direction for (model, guide) and its standard error."""
    named = [*model.parameters(), *guide.parameters()]
    rows = []
    for _ in range(chunks):
        loss = objective(model, guide, x).loss
        parts = torch.autograd.grad(-loss, named, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(named, parts, strict=True)
                ]
            )
        )
    stacked = torch.stack(rows)
    split = torch.tensor([sum(p.numel() for p in model.parameters())])
    return stacked.mean(0), stacked.std(0) / chunks**0.5, split


@pytest.mark.parametrize(
    ("objective", "theta", "phi"),
    [
        (Tvo(2, partitions=1), Elbo(2), Elbo(2)),
        (Piwae(2, groups=2), Iwae(2), Miwae(2, groups=2)),
        (WakeSleep(2), Iwae(2), None),
        (WakeSleep(2, phi="sleep"), Iwae(2), None),
    ],
    ids=str,
)
def test_objectives_with_their_own_gradient(
    objective: Objective, theta: Bound, phi: Bound | None
) -> None:
    """The model's gradient is that of one exact bound, the guide's that of another."""
    model, guide = ScalarModel(), ScalarGuide()
    x = torch.tensor([1.7], dtype=torch.float64)
    mean, se, split = mean_gradient(objective, model, guide, x.expand(100))
    checked = [(theta, list(model.parameters()), slice(0, int(split)))]
    if phi is not None:
        checked.append((phi, list(guide.parameters()), slice(int(split), None)))
    for bound, named, places in checked:
        truth = quadrature(bound, model, guide, x)
        exact = torch.cat([g.flatten() for g in torch.autograd.grad(truth, named)])
        assert (((mean[places] - exact) / se[places]).abs() < 4.5).all()


def test_wake_phi_is_the_weighted_score() -> None:
    """Against self-normalised enumeration with two draws: E sum_k w~_k grad log q(z_k | x)."""
    model, guide = BinaryModel(), BinaryGuide()
    x = torch.tensor([[0.4, -0.9]], dtype=torch.float64)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
    weights = read(run_at(model, guide, (x.expand(256, 2),), {"z": states}), 256, (1, 256))
    log_w, log_q = weights.total[0].detach(), weights.guide["z"][0]
    both = torch.stack(torch.broadcast_tensors(log_w[:, None], log_w[None, :])).softmax(0)
    pairs = log_q.detach().exp()[:, None] * log_q.detach().exp()[None, :]
    score = (pairs * (both[0] * log_q[:, None] + both[1] * log_q[None, :])).sum()
    (exact,) = torch.autograd.grad(score, [guide.logits])
    mean, se, split = mean_gradient(WakeSleep(2), model, guide, x.expand(100, 2))
    assert (((mean[int(split) :] - exact) / se[int(split) :]).abs() < 4.5).all()


@pytest.mark.parametrize(
    "objective", [Elbo(3, StickingTheLanding()), Iwae(3, DoublyReparametrised())]
)
def test_gradient_has_no_noise_at_the_posterior(objective: Objective) -> None:
    """x = w z + noise in one dimension: the guide holds the posterior, every draw's gradient is 0."""

    class Line(PyroModule):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(2.0 * z, 0.5), obs=x)

    guide = ScalarGuide()
    precision = 2.0**2 / 0.5**2 + 1
    with torch.no_grad():
        guide.line.copy_(torch.tensor([2.0 / 0.5**2 / precision, 0.0], dtype=torch.float64))
        guide.log_scale.fill_(-0.5 * math.log(precision))
    x = torch.randn(50, dtype=torch.float64)
    loss = objective(Line(), guide, x).loss
    for gradient in torch.autograd.grad(loss, list(guide.parameters())):
        assert gradient.abs().max() < 1e-12
    noisy = torch.autograd.grad(Elbo(3)(Line(), guide, x).loss, list(guide.parameters()))
    assert max(g.abs().max().item() for g in noisy) > 1e-3


def test_estimators_work_for_flows() -> None:
    """STL and DReG know no family: two coupled sites, one of them behind a spline flow."""

    class Flow(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 4)
            self.spline = dist.transforms.Spline(2, count_bins=4)

        def forward(self, x: Tensor) -> None:
            loc, log_scale = self.net(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                base = dist.Normal(loc, log_scale.exp()).to_event(1)
                z = pyro.sample("z", dist.TransformedDistribution(base, [self.spline]))
                pyro.sample("w", dist.Normal(z.sum(-1), 0.5))

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                w = pyro.sample("w", dist.Normal(z.prod(-1), 1.0))
                loc = self.net(z) + w[..., None]
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    model, guide, x = Model(), Flow(), torch.randn(1, 3).expand(100, 3)
    for plain, other in (
        (Elbo(2), Elbo(2, StickingTheLanding())),
        (Iwae(4), Iwae(4, DoublyReparametrised())),
    ):
        (mean, se, _), (mean_2, se_2, _) = (
            mean_gradient(o, model, guide, x, chunks=60) for o in (plain, other)
        )
        z = (mean - mean_2) / (se.square() + se_2.square()).sqrt().clamp(min=1e-9)
        assert z.abs().max() < 4.5


def test_bounds_are_ordered() -> None:
    """ELBO <= MIWAE <= IWAE <= log p <= CUBO on linear-Gaussian; Renyi falls with alpha."""
    truth = linear_gaussian()
    x = truth.sample(2000)
    model, guide = truth.model(), best_diagonal(truth)
    log_px = truth.log_prob(x).mean().item()
    with torch.no_grad():
        value = {
            str(o): o(model, guide, x).bound.item()
            for o in (Elbo(64), Miwae(64, groups=16), Iwae(64), Chi(2000), Renyi(64, alpha=0.5))
        }
    elbo, miwae, iwae, chi, renyi = value.values()
    assert elbo < miwae < iwae < log_px < chi
    assert elbo < renyi < iwae
    assert log_px - elbo == pytest.approx(truth.diagonal_gap, abs=0.05)


def test_thermodynamic_bound_rises_with_partitions() -> None:
    truth = linear_gaussian()
    x = truth.sample(500)
    model, guide = truth.model(), best_diagonal(truth)
    with torch.no_grad():
        bounds = [Tvo(400, p)(model, guide, x).bound.item() for p in (1, 2, 5, 20)]
        pyro.set_rng_seed(3)
        one = Tvo(50, 1)(model, guide, x).bound.item()
        pyro.set_rng_seed(3)
        elbo = Elbo(50)(model, guide, x).bound.item()
    assert bounds == sorted(bounds)
    assert bounds[-1] < truth.log_prob(x).mean().item() + 0.02
    assert one == pytest.approx(elbo, abs=1e-9)


def test_objectives_are_log_px_at_the_posterior() -> None:
    truth = linear_gaussian()
    x = truth.sample(20)
    expected = truth.log_prob(x).mean().item()
    for objective in (Elbo(3), Iwae(3), Miwae(4), Ciwae(4), Renyi(3), Tvo(3), WakeSleep(3)):
        bound = objective(truth.model(), ExactPosterior(truth), x).bound.item()
        assert bound == pytest.approx(expected, abs=1e-6), objective


def test_analytic_kl_counts_what_is_masked_and_its_loss_what_is_scaled_as_pyro_does() -> None:
    seen: Any = torch.tensor([True, False, True, True])

    def model(x: Tensor) -> None:
        with (
            pyro.plate("data", len(x)),
            pyro.poutine.mask(mask=seen),
            pyro.poutine.scale(scale=3.0),
        ):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with (
            pyro.plate("data", len(x)),
            pyro.poutine.mask(mask=seen),
            pyro.poutine.scale(scale=3.0),
        ):
            pyro.sample("z", dist.Normal(x / 2, 0.5).to_event(1))

    x = torch.randn(4, 2)
    pyro.set_rng_seed(3)
    mine = Elbo(analytic_kl=True)(model, guide, x)
    pyro.set_rng_seed(3)
    theirs = pyro.infer.TraceMeanField_ELBO(max_plate_nesting=1).loss(model, guide, x) / 4
    assert mine.loss.item() == pytest.approx(theirs, rel=1e-6)
    assert mine.bound.item() == pytest.approx(-theirs / 3, rel=1e-6)  # a density has no scale
    kl = 0.5 * (0.25 + x.square() / 4 - 1 - 2 * math.log(0.5)).sum(-1)
    assert mine.kl.item() == pytest.approx((kl[seen].sum() / 4).item(), rel=1e-6)


def test_analytic_kl_is_pyros_mean_field_elbo() -> None:
    pair = PAIRS["bernoulli"]()
    named = [*pair.model.parameters(), *pair.guide.parameters()]
    for weight in (1.0, 0.4):
        with KLWeight(weight):
            pyro.set_rng_seed(2)
            mine = Elbo(analytic_kl=True)(pair.model, pair.guide, pair.x)
            pyro.set_rng_seed(2)
            elbo = pyro.infer.TraceMeanField_ELBO()
            theirs = elbo.differentiable_loss(pair.model, pair.guide, pair.x) / len(pair.x)
        assert mine.loss.item() == pytest.approx(theirs.item(), rel=1e-6)
        for a, b in zip(*(torch.autograd.grad(v, named) for v in (mine.loss, theirs)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "alpha", [1 - 1e-3, 1 - 1e-6, 1 - 1e-9, 1 + 1e-9, 1 + 1e-5, 0.0, -2.0, 3.0]
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_renyi_keeps_its_digits(alpha: float, scheduled: bool) -> None:
    """In 32 bits it and its gradient are those of 64 bits, near alpha = 1 too, where it is a mean.

    There 64 bits lose digits as well: the exact value is mean + (1 - alpha) var / 2 + ...
    """
    log_w = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) - 100
    order = torch.tensor(alpha) if scheduled else alpha
    power = 1 - (order.item() if isinstance(order, torch.Tensor) else order)
    wide = log_w.double().requires_grad_()
    if abs(power) < 1e-5:
        exact = wide.mean(0) + power * wide.var(0, correction=0) / 2
    else:
        exact = ((power * wide).logsumexp(0) - math.log(6)) / power
    log_w.requires_grad_()
    found = Renyi(6, alpha=order).reduce(log_w)  # type: ignore[arg-type]
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-5)
    slopes = (
        torch.autograd.grad(value.sum(), at)[0] for value, at in ((found, log_w), (exact, wide))
    )
    torch.testing.assert_close(*(each.double() for each in slopes), rtol=1e-4, atol=1e-5)


def test_renyi_is_pyros_on_one_datum() -> None:
    pair = PAIRS["bernoulli"]()
    x = pair.x[:1]
    pyro.set_rng_seed(2)
    mine = Renyi(7, alpha=0.3)(pair.model, pair.guide, x).bound.item()
    pyro.set_rng_seed(2)
    elbo = pyro.infer.RenyiELBO(
        alpha=0.3,  # type: ignore[arg-type]
        num_particles=7,
        vectorize_particles=True,
        max_plate_nesting=1,
    )
    assert mine == pytest.approx(-elbo.loss(pair.model, pair.guide, x), rel=1e-5)


def test_beta_weighs_the_loss_alone() -> None:
    pair = PAIRS["discrete"]()
    pyro.set_rng_seed(1)
    plain = Elbo(2)(pair.model, pair.guide, pair.x)
    pyro.set_rng_seed(1)
    beta = Elbo(2, beta=4.0)(pair.model, pair.guide, pair.x)
    torch.testing.assert_close(beta.bound, plain.bound)
    torch.testing.assert_close(beta.loss, -plain.reconstruction + 4 * plain.kl)
    pyro.set_rng_seed(1)
    with KLWeight(0.5):
        both = Elbo(2, beta=4.0)(pair.model, pair.guide, pair.x)
    torch.testing.assert_close(both.loss, -plain.reconstruction + 2 * plain.kl)
    torch.testing.assert_close(both.bound, plain.bound)


def test_free_bits_hold_each_coordinate() -> None:
    """Loss = -E log p(x|z) + sum_j max(lambda, mean KL_j), with the closed form of each KL_j."""
    pair = PAIRS["bernoulli"]()
    loc, log_scale = pair.guide.encoder(pair.x).chunk(2, -1)
    kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 2 * log_scale - 1).mean(0)
    objective = FreeBits(analytic_kl=True, nats=kl.mean().item())
    estimate = objective(pair.model, pair.guide, pair.x)
    expected = -estimate.reconstruction + kl.clamp(min=objective.nats).sum()
    torch.testing.assert_close(estimate.loss, expected)
    torch.testing.assert_close(estimate.bound, estimate.reconstruction - kl.sum())


def test_beta_tc_at_ones_is_the_elbo() -> None:
    """The three parts add up to the KL, whatever the estimate of log q(z)."""
    pair = PAIRS["bernoulli"]()
    pyro.set_rng_seed(1)
    elbo = Elbo()(pair.model, pair.guide, pair.x)
    pyro.set_rng_seed(1)
    split = BetaTc(size=1000, correlation=1.0)(pair.model, pair.guide, pair.x)
    torch.testing.assert_close(split.loss, elbo.loss)
    torch.testing.assert_close(split.bound, elbo.bound)


def test_mmd_vanishes_where_posterior_and_prior_agree() -> None:
    """E MMD^2 = 0 for equal distributions: |z| < 4 over 300 repeats; positive for others."""
    from inference.objectives.regularised import maximum_mean_discrepancy as mmd

    same = torch.stack([mmd(torch.randn(50, 3), torch.randn(50, 3)) for _ in range(300)])
    assert abs(same.mean() / (same.std() / 300**0.5)) < 4
    assert mmd(torch.randn(50, 3) + 1, torch.randn(50, 3)) > 0.05


@pytest.mark.parametrize("divergence", [kl_divergence, bhattacharyya_distance, wasserstein2])
def test_matched_moments_vanish_at_the_aggregate_posterior(divergence: Any) -> None:
    """A mixture of N(+-m, s^2), m^2 + s^2 = 1, has the moments of N(0, 1); shifted, it has not."""
    loc = torch.tensor([[0.6], [-0.6]])
    q = dist.Normal(loc, 0.8).to_event(1)
    p = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    discrepancy = MatchedMoments(divergence)
    assert discrepancy(q, p, q.sample()).abs() < 1e-6
    shifted = dist.Normal(loc + 1, 0.8).to_event(1)
    expected = divergence(dist.Normal(torch.ones(1), 1.0).to_event(1), p)
    torch.testing.assert_close(discrepancy(shifted, p, shifted.sample()), expected)


@pytest.mark.parametrize(
    "objective",
    [
        Elbo(2), Elbo(2, beta=2.0), Elbo(2, analytic_kl=True), FreeBits(2), Iwae(3), Miwae(4),
        Ciwae(4), Renyi(3), Tvo(3), WakeSleep(3), WakeSleep(3, phi="sleep"), Piwae(4),
        BetaTc(6), InfoVae(), InfoVae(0.0, 2.0, MatchedMoments()), Iwae(3, DoublyReparametrised()), Elbo(2, StickingTheLanding()),
        Elbo(2, ScoreFunction()), Iwae(4, Vimco()), Elbo(1, Pathwise()),
        pyro.infer.Trace_ELBO(), pyro.infer.TraceMeanField_ELBO(), pyro.infer.TraceGraph_ELBO(),
        pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), pyro.infer.RenyiELBO(num_particles=2),
    ],
    ids=lambda o: str(o)[:40],
)  # fmt: skip
def test_every_objective_trains(objective: Any) -> None:
    pyro.set_rng_seed(1)
    pair = PAIRS["bernoulli"]()
    svi = SVI(pair.model, pair.guide, lambda p: torch.optim.Adam(p, lr=0.02), objective)
    before = svi.evaluate(pair.x, Elbo(200)).bound
    for _ in range(80):
        estimate = svi.step(pair.x)
        assert all(value.isfinite() for value in estimate)
    assert svi.evaluate(pair.x, Elbo(200)).bound > before + 0.1


def test_chi_trains_the_guide_alone() -> None:
    truth = linear_gaussian()
    x, model, guide = truth.sample(100), truth.model(), truth.diagonal_guide()
    svi = SVI(model, guide, lambda p: torch.optim.Adam(p, lr=0.05), Chi(32))
    svi.prepare(x)
    before, start = svi.weights(), svi.evaluate(x, Elbo(50)).bound
    for _ in range(100):
        svi.step(x)
    after = svi.weights()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("model."))
    assert svi.evaluate(x, Elbo(50)).bound > start + 1


@pytest.mark.parametrize("estimator", [StraightThrough(), StraightThrough(0.1)])
def test_straight_through_trains_discrete_sites(estimator: Estimator) -> None:
    pair = PAIRS["discrete"]()
    svi = SVI(pair.model, pair.guide, lambda p: torch.optim.Adam(p, lr=0.02), Elbo(4, estimator))
    before = svi.evaluate(pair.x, Elbo(500)).bound
    for _ in range(80):
        svi.step(pair.x)
    assert svi.evaluate(pair.x, Elbo(500)).bound > before + 0.2


def test_straight_through_draws_are_the_guides() -> None:
    """Frequencies of ones are the probabilities: |z| < 4.5 for 8 coins."""
    guide, x = BinaryGuide(), torch.zeros(20_000, 2, dtype=torch.float64)
    weights = Elbo(1, StraightThrough()).estimator(Elbo(1), BinaryModel(), guide, x)[0]
    draws, p = weights.draws["z"], guide.logits.sigmoid()
    assert torch.equal(draws, draws.round())
    assert ((draws.mean(0) - p) / (p * (1 - p) / 20_000).sqrt()).abs().max() < 4.5


REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: Iwae(5, StickingTheLanding()), "bernoulli", "biased for Iwae with 5 particles: take DoublyRep"),
    (lambda: Elbo(1, Pathwise()), "discrete", "site 'b' has no reparametrised sampler. Take ScoreF"),
    (lambda: Elbo(1, StickingTheLanding()), "discrete", "site 'b' has no reparametrised sampler"),
    (lambda: Iwae(5, DoublyReparametrised()), "discrete", "site 'b' has no reparametrised sampler"),
    (lambda: Elbo(5, DoublyReparametrised()), "bernoulli", "is for Iwae; Elbo has another gradient"),
    (lambda: Elbo(5, Vimco()), "bernoulli", "Vimco needs Iwae with 2 particles or more; got Elbo"),
    (lambda: Iwae(1, Vimco()), "bernoulli", "got Iwae with 1"),
    (lambda: Elbo(1, ScoreFunction("leave one out")), "bernoulli", "needs Elbo with 2 particles"),
    (lambda: Elbo(analytic_kl=True, estimator=StickingTheLanding()), "bernoulli", "no draws to"),
    (lambda: Elbo(analytic_kl=True), "flow", "no closed form is known for the KL of"),
    (lambda: FreeBits(2, Vimco()), "bernoulli", "leave the estimator out"),
    (lambda: Piwae(), "functions", "make model and guide a PyroModule each"),
    (lambda: Piwae(), "methods", "make model and guide a PyroModule each"),
    (lambda: BetaTc(6), "discrete functions", "needs a posterior with independent coordinates"),
    (lambda: Iwae(3), "shared weight", "Site 'w' lies outside the data plate"),
    (lambda: Elbo(0), "bernoulli", "at least 1 particle; got 0"),
    (lambda: Miwae(8, groups=3), "bernoulli", "divides 8 particles; got 3"),
    (lambda: Ciwae(beta=1.5), "bernoulli", "from 0 to 1; got 1.5"),
    (lambda: Tvo(1), "bernoulli", "at least 2 particles"),
    (lambda: Chi(order=0.5), "bernoulli", "above 1; got 0.5"),
    (lambda: StraightThrough(0.0), "bernoulli", "above 0; got 0.0"),
    (lambda: Relax(0.0), "bernoulli", "above 0; got 0.0"),
    (lambda: Relax(hidden=0), "bernoulli", "at least 1 hidden unit; got 0"),
    (lambda: Elbo(1, Relax()), "bernoulli", "Relax is for Bernoulli or OneHotCategorical; got Normal"),
    (lambda: Elbo(1, Relax()), "discrete", "Relax takes one latent site, and the guide has 'b' and 'z'"),
    (lambda: Iwae(2, Relax()), "discrete bits", "Relax is for Elbo; Iwae is no mean over particles"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The pair cannot carry")
@pytest.mark.parametrize(("make", "name", "words"), REFUSED)
def test_wrong_combinations_are_refused(make: Callable[[], Any], name: str, words: str) -> None:
    if name in ("flow", "discrete functions"):
        pair = PAIRS["bernoulli"]()

        def guide(x: Tensor) -> None:
            base = dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
            skewed = dist.TransformedDistribution(base, [dist.transforms.SigmoidTransform()])
            with pyro.plate("data", len(x)):
                pyro.sample("z", skewed)

        pair = pair._replace(guide=guide)
    else:
        pair = PAIRS[name]()
    with pytest.raises(ValueError, match=words):
        make()(pair.model, pair.guide, pair.x)


def test_leave_one_out_has_less_noise_than_none() -> None:
    model, guide = BinaryModel(), BinaryGuide()
    x = torch.tensor([[2.0, -3.0]], dtype=torch.float64).expand(100, 2)
    spread = []
    for baseline in ("none", "leave one out"):
        objective = Elbo(2, ScoreFunction(baseline))  # type: ignore[arg-type]
        spread.append(mean_gradient(objective, model, guide, x)[1][-8:].mean())
    assert spread[1] < 0.5 * spread[0]


def test_running_mean_is_saved_with_the_weights() -> None:
    pair = PAIRS["discrete"]()
    svi = SVI(pair.model, pair.guide, objective=Elbo(1, ScoreFunction("running mean")))
    for _ in range(3):
        svi.step(pair.x)
    state = svi.state_dict()
    assert state["objective"]["total"] != 0
    assert not any(name.startswith("objective") for name in state["weights"])
    other = SVI(pair.model, pair.guide, objective=Elbo(1, ScoreFunction("running mean")))
    other.prepare(pair.x)
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()["objective"]["total"], state["objective"]["total"])


class FlowGuide(PyroModule):
    """A flow that holds its parameters, and uses them when log q is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = dist.transforms.affine_autoregressive(2)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


class PlaneModel(PyroModule):
    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


@pytest.mark.parametrize("guide", [ScalarGuide(), FlowGuide()], ids=["normal", "flow"])
def test_log_weights_gradient_paths(guide: nn.Module) -> None:
    """detach_draws leaves log q's own path to the guide, detach_guide that through the draws."""
    model = ScalarModel() if isinstance(guide, ScalarGuide) else PlaneModel()
    x = torch.randn(4, dtype=next(guide.parameters()).dtype)
    named = list(guide.parameters())

    def gradients(**options: Any) -> list[Tensor]:
        pyro.set_rng_seed(0)
        total = log_weights(model, guide, x, 3, **options).total.sum() + sum(
            p.sum() * 0 for p in named
        )
        parts = torch.autograd.grad(total, named, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(named, parts, strict=True)]

    both, score, path = gradients(), gradients(detach_draws=True), gradients(detach_guide=True)
    for whole, a, b in zip(both, score, path, strict=True):
        torch.testing.assert_close(whole, a + b)
    assert not any(g.any() for g in gradients(detach_draws=True, detach_guide=True))
    assert all(p.requires_grad for p in named)
