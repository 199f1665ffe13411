"""The deep Markov model against its linear-Gaussian case, where everything is known."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive
from torch import Tensor, nn

import guides
import models
from inference import SVI, Elbo, log_weights
from inference.check import check

from .pairs import sequence

# z_1 ~ N(0, 1), z_t ~ N(A z_{t-1}, 1), x_t ~ N(C z_t, R^2), scalars, three steps.
A, C, R, STEPS = 0.8, 1.5, 0.7, 3


@pytest.fixture(autouse=True)
def _double() -> Any:
    """Closed forms are compared in double precision."""
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Step(nn.Module):
    def forward(self, z: Tensor) -> Any:
        return dist.Normal(A * z, 1.0).to_event(1)


class Messages(nn.Module):
    """log p(x_t, ..., x_L | z_t) = -J_t z^2 / 2 + h_t z + const, from the end back: (B, T, 2).

    A step back past z_{t+1} ~ N(A z_t, 1) makes of J, h: A^2 J / (1 + J), A h / (1 + J); then x_t
    adds C^2 / R^2 and C x_t / R^2.
    """

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = x.reshape(len(x), -1)
        precision, shift, found = torch.zeros(len(x)), torch.zeros(len(x)), []
        for t in reversed(range(x.shape[1])):
            here = 1.0 if lengths is None else (t < lengths).to(x)
            precision, shift = (
                A**2 * precision / (1 + precision) + here * C**2 / R**2,
                A * shift / (1 + precision) + here * C * x[:, t] / R**2,
            )
            found.insert(0, torch.stack([precision, shift], -1))
        return torch.stack(found, 1)


class Posterior(nn.Module):
    """q(z_t | z_{t-1}, h_t): the step's N(A z, 1) times the message; z_0 = 0 gives p(z_1)."""

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        precision, shift = h[..., :1], h[..., 1:]
        total = 1 + precision
        loc = (A * z + shift) / total
        return torch.cat([loc, (-0.5 * total.log()).expand_as(loc)], -1)


def linear() -> tuple[models.DeepMarkov, guides.DeepMarkov]:
    emitter = nn.Linear(1, 1, bias=False)
    nn.init.constant_(emitter.weight, C)
    likelihood = models.Normal((1,), R, learn_scale=False)
    model = models.DeepMarkov(models.StandardNormal(1), Step(), emitter, likelihood)
    return model, guides.DeepMarkov(Messages(), Posterior(), guides.DiagonalNormal(1))


def joint(steps: int) -> Any:
    """Return the normal of (z_1, ..., z_T, x_1, ..., x_T): z = L e with L_ts = A^(t - s)."""
    t = torch.arange(steps)
    lower = torch.tensor(A) ** (t.unsqueeze(-1) - t).clamp(min=0) * (t.unsqueeze(-1) >= t)
    z = lower @ lower.T
    cov = torch.cat([torch.cat([z, C * z], 1), torch.cat([C * z, C**2 * z], 1)])
    cov[steps:, steps:] += R**2 * torch.eye(steps)
    return dist.MultivariateNormal(torch.zeros(2 * steps), cov)


def log_px(x: Tensor) -> Tensor:
    steps = x.shape[-1]
    cov = joint(steps).covariance_matrix[steps:, steps:]
    return dist.MultivariateNormal(torch.zeros(steps), cov).log_prob(x)


def test_joint_density_is_that_of_the_linear_chain() -> None:
    model, guide = linear()
    x = torch.randn(5, STEPS, 1)
    weights = log_weights(model, guide, x)
    log_p = weights.reconstruction + torch.stack(list(weights.prior.values())).sum(0)
    z = torch.cat([weights.draws[f"z_{t}"] for t in range(1, STEPS + 1)], -1)
    expected = joint(STEPS).log_prob(torch.cat([z, x.squeeze(-1)], -1))
    torch.testing.assert_close(log_p.squeeze(0), expected)


def test_exact_guide_has_the_marginal_as_its_weights() -> None:
    x = torch.randn(5, STEPS, 1)
    log_w = log_weights(*linear(), x, 4).total
    torch.testing.assert_close(log_w, log_px(x.squeeze(-1)).expand(4, 5))


def test_bound_of_a_wrong_guide_tends_to_the_marginal() -> None:
    """Importance sampling, 100,000 draws: |z| < 4.5 of the mean weight, wrong once in 150,000."""
    model, guide = linear()
    guide.start = nn.Parameter(torch.full((1,), 0.3))
    x = 0.5 * torch.randn(1, STEPS, 1)
    log_w = log_weights(model, guide, x, 100_000).total.squeeze(-1)
    exact = log_px(x.squeeze(-1))
    ratio = (log_w - exact).exp()
    assert log_w.mean() < exact
    assert ratio.std() > 0.05
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / 100_000**0.5


def test_padding_has_no_part() -> None:
    """A sequence that ends early has the weights of the sequence alone, whatever follows."""
    x, lengths = torch.randn(3, STEPS, 1), torch.tensor([1, 2, 3])
    log_w = log_weights(*linear(), (x, lengths), 4).total
    alone = [log_px(x[n, :end, 0]) for n, end in enumerate(lengths.tolist())]
    torch.testing.assert_close(log_w, torch.stack(alone).expand(4, 3))


def test_padding_has_no_part_in_a_kl_in_closed_form() -> None:
    """z_1 has no state before it: the KL of sequences of one step is that of x_1 alone."""
    model, guide = linear()
    x, one = torch.randn(3, STEPS, 1), torch.ones(3, dtype=torch.long)
    kl = [Elbo(analytic_kl=True)(model, guide, batch).kl for batch in ((x, one), x[:, :1])]
    torch.testing.assert_close(*kl)


def test_backward_network_sees_what_is_to_come() -> None:
    net, x, lengths = guides.BackwardGRU(4, 5), torch.randn(3, 1, 6, 4), torch.tensor([6, 2, 4])
    h = net(x, lengths)
    for n, end in enumerate(lengths.tolist()):
        torch.testing.assert_close(h[n, :end], net(x[n : n + 1, :, :end])[0])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 3].sum(), x)
    seen = (gradient != 0).any(-1)[:, 0]
    assert seen.tolist() == [[False] * 3 + [True] * 3] * 3


def test_flow_has_the_density_of_its_inverse() -> None:
    """At each step log q is the base's at the inverse of the draw, less the log determinant."""
    family = guides.DiagonalNormal(2)
    flow = [affine_autoregressive(2, [4]), affine_autoregressive(2, [4])]
    combiner = guides.Combiner(2, 5, family.parameter_dim)
    guide = guides.DeepMarkov(guides.BackwardGRU(4, 5), combiner, family, flow)
    model = models.DeepMarkov(
        models.StandardNormal(2),
        models.GatedTransition(2, 4),
        models.MLP(2, (4,), [4]),
        models.Normal((4,)),
    )
    x = torch.randn(3, STEPS, 4)
    weights, h, before = log_weights(model, guide, x), guide.encoder(x), guide.start
    for t in range(STEPS):
        z = weights.draws[f"z_{t + 1}"]
        value, log_det = z, torch.zeros(3)
        for transform in reversed(flow):
            earlier: Any = transform.inv(value.clone())
            log_det = log_det + transform.log_abs_det_jacobian(earlier, value)
            value = earlier
        expected = family(combiner(before, h[:, t])).log_prob(value) - log_det
        torch.testing.assert_close(weights.guide[f"z_{t + 1}"].squeeze(0), expected)
        before = z


def test_image_is_a_sequence_of_rows() -> None:
    torch.set_default_dtype(torch.float32)
    pair = sequence(lengths=False)
    image = log_weights(pair.model, pair.guide, pair.x)
    assert list(image.draws) == ["z_1", "z_2"]
    pyro.set_rng_seed(1)
    a = log_weights(pair.model, pair.guide, pair.x).total
    pyro.set_rng_seed(1)
    b = log_weights(pair.model, pair.guide, pair.x.squeeze(1)).total
    torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match=r"rows of shape \(6,\); got \(6, 6, 2\)"):
        pair.model(pair.x.squeeze(1).mT)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [False, True])
def test_flow_is_sound_and_captured(lengths: bool) -> None:
    """One flow at every step: its memories don't mix, and no step of it needs an inverse."""
    torch.set_default_dtype(torch.float32)
    bounds = []
    for how in ("off", "graph"):
        pyro.set_rng_seed(2)
        pair = sequence(flow=True, lengths=lengths)
        assert check(pair.model, pair.guide, pair.x) == []
        svi = SVI(pair.model, pair.guide, compile=how)
        bounds.append(torch.stack([svi.step(pair.x).bound for _ in range(4)]))
        assert svi.captured == (None if how == "off" else how)
    torch.testing.assert_close(*bounds, rtol=1e-4, atol=1e-4)
