"""Diagnostics of the code: closed forms of linear-Gaussian pairs and tables, known collapses.

Statistical assertions are |z| < 4, wrong once in 16,000; the seeds are fixed.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import log_weights, rng
from inference.capture.choosing import PASSES, BreakEven
from inference.data import Split, View
from inference.evaluation import Diagnostics, SiteDiagnostics, diagnose, latent_code

from .pairs import PAIRS, rows
from .scenarios import ExactPosterior, LinearGaussian, linear_gaussian


@dataclass(frozen=True)
class Raw(View):
    """x as it is stored: float64, or an index."""

    @property
    def unit(self) -> str:
        return "nats"

    def __call__(self, stored: Tensor) -> Tensor:
        return stored


class Guide(PyroModule):
    """q(z | x) = N(x A + b, s^2)."""

    def __init__(self, gain: Tensor, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.gain, self.shift, self.scale = gain, shift, scale

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = x @ self.gain + self.shift
            pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))


class Steps(PyroModule):
    """The prior, and posterior, of a linear-Gaussian model as a chain of two sites."""

    def __init__(self, truth: LinearGaussian) -> None:
        super().__init__()
        self.truth = truth

    def model(self, x: Tensor) -> None:
        zero = torch.zeros(1).double()
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(zero, 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(zero, 1.0).to_event(1))
            loc = torch.cat([a, b], -1) @ self.truth.weight.T + self.truth.mean
            pyro.sample("x", dist.Normal(loc, self.truth.variance**0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        posterior = self.truth.posterior(x)
        (m0, m1), cov = posterior.mean.split(1, -1), posterior.covariance_matrix[0]
        slope = cov[0, 1] / cov[0, 0]
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(m0, cov[0, 0].sqrt()).to_event(1))
            scale = (cov[1, 1] - slope * cov[0, 1]).sqrt()
            pyro.sample("b", dist.Normal(m1 + slope * (a - m0), scale).to_event(1))


def best_diagonal(truth: LinearGaussian) -> Guide:
    """The posterior's mean and the variances s2 / M_ii."""
    gain = torch.linalg.solve(truth.precision, truth.weight.T).T
    scale = (truth.variance / truth.precision.diagonal()).sqrt()
    return Guide(gain, -truth.mean @ gain, scale)


def constant(loc: float, scale: float) -> Guide:
    """A guide that ignores x."""
    zeros = torch.zeros(5, 2).double()
    return Guide(zeros, torch.full((2,), loc).double(), torch.full((2,), scale).double())


def standardised(values: Tensor, expected: float = 0.0) -> float:
    """How many standard errors the mean is off."""
    return abs(((values.mean() - expected) / (values.std() / len(values) ** 0.5)).item())


def terms(site: SiteDiagnostics) -> tuple[Tensor, Tensor]:
    assert site.information is not None
    assert site.aggregate_kl is not None
    return site.information, site.aggregate_kl


def test_linear_gaussian_in_closed_form() -> None:
    """KL, posterior means and sensitivity of a diagonal guide have closed forms."""
    truth = linear_gaussian()
    guide, x = best_diagonal(truth), truth.sample(400)
    found = diagnose(truth.model(), guide, Split(x, Raw()), size=1000)
    site = found.sites["z"]
    assert (found.size, found.sensitivity_size, site.by_dimension) == (400, 100, True)
    loc = x @ guide.gain + guide.shift
    kl = 0.5 * (loc.square() + guide.scale.square() - 1) - guide.scale.log()
    torch.testing.assert_close(site.kl, kl.mean(0))
    torch.testing.assert_close(site.sorted_kl, kl.mean(0).sort(descending=True).values)
    torch.testing.assert_close(found.rate.sort().values, kl.sum(1).sort().values)
    torch.testing.assert_close(site.mean_variance, loc.var(0))
    assert site.active(0.01) == 2
    # The decoder is W z + mu, and a prior standard deviation is 1.
    torch.testing.assert_close(site.sensitivity, truth.weight.norm(dim=0))
    assert found.warnings() == []


def test_distortion_of_a_linear_decoder() -> None:
    """-E_q log p(x|z) = d/2 log 2 pi s2 + (|x - W m - mu|^2 + tr W S W') / 2 s2, S diagonal."""
    truth = linear_gaussian()
    guide, x = best_diagonal(truth), truth.sample(400)
    found = diagnose(truth.model(), guide, Split(x, Raw()), size=400)
    m = x @ guide.gain + guide.shift
    spread = (truth.weight.square() @ guide.scale.square()).sum()
    residual = (x - m @ truth.weight.T - truth.mean).square().sum(1)
    exact = 2.5 * math.log(2 * math.pi * truth.variance) + (residual + spread) / 2 / truth.variance
    # The same data on both sides, and the spread over data left in the error: conservative.
    error = found.distortion.std() / 400**0.5
    assert abs(found.distortion.mean() - exact.mean()) < 4 * error


@pytest.mark.parametrize("exact", [False, True], ids=["diagonal", "full"])
def test_surgery(exact: bool) -> None:
    """Mean KL = I_q + KL(q(z) || p(z)), the left side in closed form and the right from draws.

    The KL is paired with its datum's draw. A full posterior has no KL by dimension.
    """
    truth = linear_gaussian()
    guide = ExactPosterior(truth) if exact else best_diagonal(truth)
    x = truth.sample(600)
    found = diagnose(truth.model(), guide, Split(x, Raw()), size=600)
    site = found.sites["z"]
    information, divergence = terms(site)
    assert site.by_dimension is not exact
    if not exact:
        assert standardised(information + divergence - found.rate) < 4
        return
    torch.testing.assert_close(information + divergence, found.rate)
    q = truth.posterior(x)
    prior = dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    kl = torch.distributions.kl_divergence(q, prior)
    assert standardised(found.rate, kl.mean().item()) < 4
    # Of x ~ p the aggregate posterior is the prior, and I the model's own: 1/2 log |M / s2|.
    mutual = 0.5 * torch.logdet(truth.precision / truth.variance).item()
    assert standardised(information, mutual) < 4
    # N data are no continuum: KL(q_N || p) is above 0, by the order of e^I / N.
    assert -4 * divergence.std() / 600**0.5 < divergence.mean() < 4 * math.exp(mutual) / 600


def test_sites_in_a_chain_add_up() -> None:
    """Terms of the chain rule: each site's surgery, and the sum that of the one joint site."""
    truth = linear_gaussian()
    data = Split(truth.sample(300), Raw())
    chain = Steps(truth)
    steps = diagnose(chain.model, chain.guide, data, size=300, seed=1)
    joint = diagnose(truth.model(), ExactPosterior(truth), data, size=300, seed=2)
    total = torch.zeros(300).double()
    for site in steps.sites.values():
        information, _ = terms(site)
        total += information
        assert site.by_dimension
        assert information.mean() > 0
    both = sum((sum(terms(site)) for site in steps.sites.values()), -steps.rate)
    assert standardised(torch.as_tensor(both)) < 4
    whole, _ = terms(joint.sites["z"])
    error = (total.var() / 300 + whole.var() / 300).sqrt()
    assert abs(total.mean() - whole.mean()) < 4 * error
    # Two runs of the guide see through b's dependence on a's draw: it is Var_x E[b | x].
    marginal = truth.posterior(data.stored).mean.var(0)
    torch.testing.assert_close(steps.sites["b"].mean_variance, marginal[1:], rtol=0.15, atol=0)
    sensitivity = [steps.sites[name].sensitivity for name in "ab"]
    torch.testing.assert_close(torch.cat(sensitivity), truth.weight.norm(dim=0))  # type: ignore[arg-type]


def test_guide_on_every_pair_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many draws of several sites to rate under every datum, the guide hardly runs."""
    truth = linear_gaussian()
    data, chain, runs = Split(truth.sample(300), Raw()), Steps(truth), [0, 0]
    monkeypatch.setattr(latent_code, "PAIRS_PER_PASS", 2560)  # 36 calls, 30 of them of 10 x 256

    def found(place: int) -> Diagnostics:
        # Counted outside of the guide, which would read a number that changes.
        on_pairs = latent_code.LatentCode._densities_on_pairs

        def counted(*arguments: Any) -> list[Tensor]:
            runs[place] += 1
            return on_pairs(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(latent_code.LatentCode, "_densities_on_pairs", counted)
            return diagnose(chain.model, chain.guide, data)

    captured = found(0)
    monkeypatch.setitem(PASSES, "cpu", BreakEven(1_000_000, 1_000_000))
    eager = found(1)
    assert runs[0] < runs[1] - 20
    for name, site in captured.sites.items():
        torch.testing.assert_close(terms(site), terms(eager.sites[name]))


def test_known_collapse_is_told() -> None:
    truth = linear_gaussian()
    found = diagnose(truth.model(), constant(0.0, 1.0), Split(truth.sample(200), Raw()), size=200)
    site = found.sites["z"]
    information, divergence = terms(site)
    for value in (site.kl, information, divergence, site.mean_variance):
        torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)
    assert (site.collapsed(0.01), site.active(0.01)) == (1.0, 0)
    (text,) = found.warnings()
    assert "'z': the posterior has collapsed to the prior: the KL of all of its 2 dim" in text
    assert "KLWeight" in text


def test_partial_collapse_is_told() -> None:
    """The second dimension is the prior, and the decoder does not read it."""
    truth = linear_gaussian()
    weight = truth.weight.clone()
    weight[:, 1] = 0
    truth = LinearGaussian(weight, truth.mean, truth.variance)
    found = diagnose(truth.model(), best_diagonal(truth), Split(truth.sample(200), Raw()), size=200)
    site = found.sites["z"]
    assert (site.collapsed(0.01), site.active(0.01)) == (0.5, 1)
    assert site.sensitivity is not None
    assert site.sensitivity[1] == 0
    (text,) = found.warnings()
    assert "1 of 2 dimensions have collapsed" in text


def test_posterior_that_ignores_x_and_is_not_the_prior_is_told() -> None:
    """I_q = 0, and the whole KL is that of the aggregate: 2 (1/2 - log 0.5 - (1 - 0.25) / 2)."""
    truth = linear_gaussian()
    found = diagnose(truth.model(), constant(1.0, 0.5), Split(truth.sample(200), Raw()), size=200)
    information, divergence = terms(found.sites["z"])
    assert information.abs().max() < 1e-12
    kl = 2 * (0.5 - math.log(0.5) - 0.375)
    assert found.rate.mean().item() == pytest.approx(kl)
    assert standardised(divergence, kl) < 4
    (text,) = found.warnings()
    assert "the same for every x, and it is not the prior" in text


def test_information_at_its_cap_is_told() -> None:
    """A guide so narrow that every draw gives its datum away: I_q = log N."""
    truth = linear_gaussian()
    guide = best_diagonal(truth)
    guide.scale = guide.scale * 1e-4
    data = Split(truth.sample(20), Raw())
    found = diagnose(truth.model(), guide, data)
    information, _ = terms(found.sites["z"])
    assert information.mean().item() == pytest.approx(math.log(20), abs=1e-6)
    assert information.max() <= math.log(20) + 1e-12
    (text,) = found.warnings()
    assert "at its cap, log 20 = 3.00: it is a lower bound only" in text
    assert "Take a larger size" in text


def test_point_mass() -> None:
    """A Delta guide knows its own datum alone, so that I_q = log N exactly."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x[:, :2], event_dim=1))

    truth = linear_gaussian()
    information, _ = terms(
        diagnose(truth.model(), guide, Split(truth.sample(50), Raw())).sites["z"]
    )
    torch.testing.assert_close(information, torch.full((50,), math.log(50)).double())


class Table(PyroModule):
    """z one of 3 values, x one of 4, as many data of each: every number is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.emission = torch.randn(3).double(), torch.randn(3, 4).double()
        self.posterior = torch.randn(4, 3).double().log_softmax(-1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Categorical(logits=self.emission[z]), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.posterior[x]))


def test_table_is_enumerated() -> None:
    table = Table()
    found = diagnose(table.model, table.guide, Split(torch.arange(4).repeat(150), Raw()), size=600)
    site = found.sites["z"]
    log_q = table.posterior
    q, log_p = log_q.exp(), table.prior.log_softmax(0)
    aggregate = q.mean(0)
    information, divergence = terms(site)
    exact = (q * (log_q - aggregate.log())).sum(1).mean().item()
    assert standardised(information, exact) < 4
    assert standardised(divergence, (aggregate * (aggregate.log() - log_p)).sum().item()) < 4
    assert standardised(found.rate, (q * (log_q - log_p)).sum(1).mean().item()) < 4
    log_x = table.emission.log_softmax(1)
    assert standardised(found.distortion, -(q * log_x.T).sum(1).mean().item()) < 4
    torch.testing.assert_close(site.mean_variance, q.repeat(150, 1).var(0))
    assert site.sensitivity is None
    assert not site.by_dimension


def test_flow_without_an_inverse() -> None:
    """Its density is known at its own draws alone; everything else still is measured."""
    flow = dist.transforms.Planar(2)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(x[:, :2], 0.1).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    truth = linear_gaussian(torch.float32)
    x = truth.sample(300)
    found = diagnose(truth.model(), guide, Split(x))
    site = found.sites["z"]
    assert site.information is None
    assert site.active(0.01) == 2
    with rng.isolated(0), torch.no_grad():
        draws = torch.as_tensor(flow(dist.Normal(x[:, :2], 0.1).sample((2000,))))
    expected = draws.mean(0).var(0)
    torch.testing.assert_close(site.mean_variance, expected, rtol=0.02, atol=0)
    assert any("a flow without an inverse" in text for text in found.warnings())
    assert json.loads(json.dumps(found.summary()))["sites"]["z"]["information"] is None


@pytest.mark.parametrize("name", rows(PAIRS))
def test_every_pair(name: str) -> None:
    """It runs, is plain data, repeats itself, and leaves random states and modes as they were."""
    pair = PAIRS[name]()
    x, *given = pair.x if isinstance(pair.x, tuple) else (pair.x,)
    data = Split(x, given=tuple(given))
    sites = set(log_weights(pair.model, pair.guide, pair.x).draws)
    before = torch.get_rng_state()
    found = diagnose(pair.model, pair.guide, data)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    for program in (pair.model, pair.guide):
        assert not isinstance(program, nn.Module) or program.training
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert diagnose(pair.model, pair.guide, data).summary() == summary
    assert set(found.sites) == sites - ({"w"} if name == "shared weight" else set())  # a global one
    for site in found.sites.values():
        information, divergence = terms(site)
        assert information.isfinite().all()
        assert divergence.isfinite().all()
        assert information.max() <= math.log(len(data)) + 1e-5
    assert all(isinstance(text, str) for text in found.warnings())


def test_global_sites_are_held() -> None:
    """z given w: the rate is that of z alone at the one w drawn, in every pass the same."""
    pair = PAIRS["shared weight"]()
    data = Split(torch.randn(600))
    found = diagnose(pair.model, pair.guide, data, size=600)
    # q = N(0.7 x, 0.5), p = N(w, 1): KL = (0.25 + (0.7 x - w)^2 - 1) / 2 + log 2, where least
    # squares find w.
    excess = 2 * (found.rate - math.log(2)) - 0.25 + 1  # (0.7 x - w)^2
    with rng.isolated(0):
        loc = 0.7 * data.stored[torch.randperm(600)]
    design = torch.stack([-2 * loc, torch.ones(600)], 1)
    w, square = torch.linalg.lstsq(design, (excess - loc.square()).unsqueeze(1)).solution[:, 0]
    torch.testing.assert_close(square, w.square(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(excess, (loc - w).square(), rtol=1e-3, atol=1e-4)


def test_passes_do_not_change_what_has_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = linear_gaussian()
    data = Split(truth.sample(50), Raw())

    def found() -> Diagnostics:
        return diagnose(truth.model(), best_diagonal(truth), data)

    whole = found()
    monkeypatch.setattr(latent_code, "ROWS_PER_PASS", 7)
    monkeypatch.setattr(latent_code, "PAIRS_PER_PASS", 30)
    parts = found()
    one, other = whole.sites["z"], parts.sites["z"]
    for key in ("kl", "mean_variance", "sensitivity"):
        torch.testing.assert_close(getattr(one, key), getattr(other, key))
    torch.testing.assert_close(whole.rate, parts.rate)
    assert standardised(terms(other)[0] - terms(one)[0]) < 4
    information, divergence = terms(other)
    assert standardised(information + divergence - parts.rate) < 4


def test_wrong_arguments() -> None:
    pair = PAIRS["bernoulli"]()
    with pytest.raises(ValueError, match=r"2 data or more; got size 1 of a split of 6"):
        diagnose(pair.model, pair.guide, Split(pair.x), size=1)
    with pytest.raises(ValueError, match=r"sensitivity_size of at least 1; got 0"):
        diagnose(pair.model, pair.guide, Split(pair.x), sensitivity_size=0)
