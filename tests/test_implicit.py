"""The implicit posterior: what it can bend to, and what its log density teaches."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import guides
from inference import SVI, Elbo
from inference.check import check


def square(x: Tensor) -> None:
    """x = z^2 + noise: the posterior has a mode on either side of 0."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.square(), 0.5).to_event(1), obs=x)


def posterior_mean(x: Tensor, f: Tensor, grid: Tensor) -> Tensor:
    joint = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid.square(), 0.5).log_prob(x)
    return (joint.softmax(-1) * f).sum(-1)


@pytest.mark.slow
def test_it_finds_both_modes() -> None:
    """E |z| and E z^4 near quadrature's, and a quarter of the draws at least on either side."""
    x = torch.tensor([[2.0], [3.0]])
    family = guides.Implicit(1, hidden=[32, 32], context=4)
    guide = guides.Amortized(nn.Linear(1, family.parameter_dim), family)
    svi = SVI(square, guide, lambda p: torch.optim.Adam(p, lr=0.01), objective=Elbo(16))
    for _ in range(1000):
        svi.step(x.repeat(30, 1))
    with torch.no_grad():
        z = guide.posterior(x).sample(torch.Size([4000])).squeeze(-1)
    grid = torch.linspace(-6, 6, 4001)
    for power, tolerance in ((1, 0.15), (4, 0.3)):
        expected = posterior_mean(x, grid.abs() ** power, grid)
        found = (z.abs() ** power).mean(0)
        assert ((found / expected - 1).abs() < tolerance).all(), (power, found, expected)
    assert (((z > 0).float().mean(0) - 0.5).abs() < 0.25).all()


def test_check_finds_nothing() -> None:
    family = guides.Implicit(1, hidden=[8], context=3)
    guide = guides.Amortized(nn.Linear(1, family.parameter_dim), family)
    assert check(square, guide, torch.tensor([[1.0], [2.0], [0.5]])) == []


def test_ratio_is_learned_from_draws_alone_and_does_not_show() -> None:
    """The density's value is the same for a draw and for its copy; its gradient is not."""
    family = guides.Implicit(2, hidden=[8], context=3)
    q = family(torch.randn(5, family.parameter_dim))
    z = q.rsample()
    of_draw, of_copy = q.log_prob(z), q.log_prob(z.clone())
    torch.testing.assert_close(of_draw, of_copy)
    weights = list(family.ratio.parameters())
    assert all(g is not None for g in torch.autograd.grad(of_draw.sum(), weights))
    assert not any(
        g is not None for g in torch.autograd.grad(of_copy.sum(), weights, allow_unused=True)
    )


def test_moments_are_those_that_the_encoder_says() -> None:
    """Of 40,000 draws, to what a fixed sample of 64 leaves open."""
    family = guides.Implicit(2, hidden=[16], context=3)
    parameters = torch.randn(4, family.parameter_dim)
    z = family(parameters).sample(torch.Size([40_000]))
    torch.testing.assert_close(z.mean(0), parameters[:, :2], atol=0.5, rtol=0)
    ratio = z.std(0) / parameters[:, 2:4].exp()
    assert ((ratio > 0.7) & (ratio < 1.4)).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="even number of draws from 4; got .*draws=5"):
        guides.Implicit(2, draws=5)
