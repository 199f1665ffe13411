"""Priors: densities against quadrature, draws against densities, and what each says of itself."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import guides
import models

from .pairs import EVENT, LATENT, PRIORS, bits

pytestmark = pytest.mark.usefixtures("in_doubles")


def make(name: str) -> models.Prior:
    """Make a prior, its parameters moved from where they start."""
    prior = PRIORS[name](LATENT)
    family = guides.DiagonalNormal(LATENT)
    guide = guides.Amortized(guides.MLP(EVENT, family.parameter_dim, [8]), family)
    prior.given(guide.posterior, bits)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return prior.eval()


@pytest.mark.parametrize("name", PRIORS)
def test_density_integrates_to_one(name: str) -> None:
    """In steps of 0.02, or of 0.05 where tails are long: a t of 5 degrees has 3e-6 outside 30.

    A spline's density jumps at its knots, which costs the sum 1e-3.
    """
    end, step = (30, 0.05) if name == "student-t" else (10, 0.02)
    axis = torch.arange(-end, end, step)
    z = torch.cartesian_prod(axis, axis)
    p = make(name)()
    assert p.batch_shape == ()
    assert p.event_shape == (LATENT,)
    with torch.no_grad():
        total = sum(p.log_prob(part).exp().sum() for part in z.split(100_000)) * step**2
    assert float(total) == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_have_the_density(name: str) -> None:
    """E p(z) / t(z) = 1 under a wide t, and both give the same E cos z: |z| < 4 of 40,000 draws."""
    p = make(name)()
    with torch.no_grad():
        drawn = p.sample(torch.Size([40_000])).cos()
        wide = dist.StudentT(3.0, torch.zeros(LATENT), 2.0).to_event(1)
        z = wide.sample(torch.Size([40_000]))
        weighted = (p.log_prob(z) - wide.log_prob(z)).exp().unsqueeze(-1) * z.cos()
    difference = drawn.mean(0) - weighted.mean(0)
    error = ((drawn.var(0) + weighted.var(0)) / 40_000).sqrt()
    assert (difference / error).abs().max() < 4


@pytest.mark.parametrize("name", PRIORS)
def test_density_has_gradients_for_all_that_is_learned(name: str) -> None:
    prior = make(name)
    parameters = list(prior.parameters())
    z = torch.randn(50, LATENT, requires_grad=True)
    prior().log_prob(z).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


def test_responsibilities_are_bayes_rule() -> None:
    prior = models.MixtureOfNormals(LATENT, 3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.5, -0.3, 0.1]))
    z = torch.randn(7, LATENT)
    share = prior.responsibilities(z)
    assert share.shape == (7, 3)
    normal = dist.Normal(prior.loc[1], prior.log_scale[1].exp()).to_event(1)
    expected = normal.log_prob(z) + prior.logits.log_softmax(0)[1] - prior().log_prob(z)
    torch.testing.assert_close(share[:, 1].log(), expected)


def test_vamp_is_the_mean_of_posteriors() -> None:
    """And with all the data for pseudo-inputs, the aggregate posterior itself."""
    family = guides.DiagonalNormal(LATENT)
    guide = guides.Amortized(guides.MLP(EVENT, family.parameter_dim, [8]), family)
    x, z = bits(5), torch.randn(9, LATENT)
    prior = models.Vamp(LATENT, components=5, learn=False)
    prior.given(guide.posterior, lambda count: x[:count])
    each: Tensor = torch.stack([guide.posterior(x[n : n + 1]).log_prob(z) for n in range(5)])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - torch.tensor(5.0).log())


def test_vamp_stays_in_the_range_of_the_data() -> None:
    seen: list[Tensor] = []

    def posterior(u: Tensor) -> dist.TorchDistribution:
        seen.append(u)
        return dist.Normal(u.flatten(1)[:, :LATENT], 1.0).to_event(1)

    prior = models.Vamp(LATENT, components=20)
    prior.given(posterior, lambda _: bits(3))  # fewer data than components
    with torch.no_grad():
        prior.pseudo_inputs += 5 * torch.randn_like(prior.pseudo_inputs)
    prior()
    assert seen[0].shape == (20, *EVENT)
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1


def bend(prior: models.ResampledNormal) -> models.ResampledNormal:
    """Let it accept a fifth of all draws or so, here more and there less."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(1.5 * torch.randn_like(parameter))
        bias: Any = prior.network.layers[-1].bias
        bias -= prior.network(prior.points).mean() + 3
    return prior.eval()


@pytest.mark.parametrize("truncation", [1, 2, 10, 100])
def test_resampled_normal(truncation: int) -> None:
    """Its share of accepted draws is quadrature's to 1e-3, and so is its integral.

    Draws against the density: E cos z of each coordinate, |z| < 4 of 40,000 draws.
    """
    pyro.set_rng_seed(1)
    prior = bend(models.ResampledNormal(LATENT, truncation, hidden=[8]))
    axis = torch.arange(-8, 8, 0.05)
    z = torch.cartesian_prod(axis, axis)
    p: Any = prior().expand((1,))
    normal = models.StandardNormal(LATENT)()
    with torch.no_grad():
        share = (prior.network(z).squeeze(-1).sigmoid() * normal.log_prob(z).exp()).sum() * 0.05**2
        mass = p.log_prob(z).exp() * 0.05**2
        assert 0.05 < share < 0.5
        assert p.log_acceptance.exp().item() == pytest.approx(share.item(), rel=1e-3)
        assert mass.sum().item() == pytest.approx(1, abs=1e-3)
        drawn = p.sample(torch.Size([40_000])).squeeze(1).cos()
        expected = (mass.unsqueeze(-1) * z.cos()).sum(0)
        assert ((drawn.mean(0) - expected) / drawn.std(0)).abs().max() < 4 / 200
        # What rejection without an end would give, up to (1 - A)^(T - 1).
        if truncation == 100:
            accepted = (prior.network(z).squeeze(-1).sigmoid() / share).log()
            limit = normal.log_prob(z) + accepted
            torch.testing.assert_close(mass, limit.exp() * 0.05**2, rtol=0, atol=1e-5)
        if truncation == 1:
            torch.testing.assert_close(p.log_prob(z), normal.log_prob(z))


def test_resampled_normal_draws_anew_in_training_alone() -> None:
    prior = bend(models.ResampledNormal(LATENT, hidden=[8], points=512))
    z = torch.randn(4, LATENT)
    assert torch.equal(prior().log_prob(z), prior().log_prob(z))
    torch.testing.assert_close(models.ResampledNormal(LATENT, points=8).points, prior.points[:8])
    prior.train()
    assert not torch.equal(prior().log_prob(z), prior().log_prob(z))


def test_wrong_arguments_are_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match=r"prior.given\(guide.posterior, examples\)"):
        models.Vamp(LATENT)()
    with pytest.raises(ValueError, match="at least 1 component; got 0"):
        models.MixtureOfNormals(LATENT, 0)
    with pytest.raises(ValueError, match="latent_dim=1. For one coordinate take MixtureOfNormals"):
        models.CouplingFlow(1)
    with pytest.raises(ValueError, match="degrees of freedom above 0; got -1"):
        models.StandardStudentT(LATENT, -1.0)
    with pytest.raises(ValueError, match="at least 1 draw of each kind; got truncation=0"):
        models.ResampledNormal(LATENT, 0)
