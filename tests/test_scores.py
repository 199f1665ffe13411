"""Sites of a guide whose gradient needs a score: factors, rejection samplers, shared draws."""

from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from inference import Elbo, Estimator, FreeBits, Iwae, ScoreFunction, Vimco, WakeSleep
from inference.objectives import Pathwise


@pytest.fixture(autouse=True)
def _double() -> Any:
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Normals(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1); the guide has a factor beside z."""

    def __init__(self, **words: Any) -> None:
        super().__init__()
        self.a, self.words = nn.Parameter(torch.tensor(0.4)), words

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.a * x, 1.0))
            pyro.factor("f", 0.5 * self.a * z, **self.words)


def test_pathwise_factor_in_a_guide_is_pyros() -> None:
    pair, x = Normals(has_rsample=True), torch.randn(6)
    pyro.set_rng_seed(1)
    theirs = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x) / 6
    pyro.set_rng_seed(1)
    mine = Elbo()(pair.model, pair.guide, x).loss
    torch.testing.assert_close(mine, theirs)
    found, expected = (torch.autograd.grad(loss, pair.a)[0] for loss in (mine, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("objective", [Elbo(), Elbo(2), Iwae(3, Vimco())], ids=str)
def test_factor_that_does_not_say_is_refused(objective: Any) -> None:
    pair = Normals()
    with pytest.raises(ValueError, match=r"'f' is a factor in the guide.*has_rsample=True"):
        objective(pair.model, pair.guide, torch.randn(6))


def test_pathwise_refuses_a_factor_from_other_draws() -> None:
    pair = Normals(has_rsample=False)
    with pytest.raises(ValueError, match="site 'f' has no reparametrised sampler"):
        Elbo(1, Pathwise())(pair.model, pair.guide, torch.randn(6))


class HandMade(nn.Module):
    """z is a coin that the guide draws by itself; a factor is its log probability."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.4))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        q = dist.Bernoulli(logits=self.a.expand(len(x)))
        with pyro.plate("data", len(x)):
            drawn = q.sample()
            pyro.sample("z", dist.Delta(drawn))
            pyro.factor("f", q.log_prob(drawn), has_rsample=False)

    def bound(self, x: Tensor) -> Tensor:
        """Return the ELBO, summed over the two values of z."""
        z = torch.tensor([[0.0], [1.0]])
        log_q = dist.Bernoulli(logits=self.a).log_prob(z)
        log_p = dist.Bernoulli(0.3).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
        return (log_q.exp() * (log_p - log_q)).sum(0).mean()


@pytest.mark.parametrize(
    "estimator",
    [None, ScoreFunction("none"), ScoreFunction("running mean")],
    ids=str,
)
def test_factor_from_other_draws_has_the_exact_gradient(estimator: Estimator | None) -> None:
    """|z| < 4 over 100 batches: wrong once in 16,000. Pyro's reward leaves the factor out: -0.094.

    That is 35 standard errors here.
    """
    pair, x = HandMade(), torch.tensor([0.3, -0.8])
    (exact,) = torch.autograd.grad(-pair.bound(x), pair.a)
    objective = Elbo(1, estimator) if estimator else Elbo()
    losses = [objective(pair.model, pair.guide, x.repeat(500)).loss for _ in range(100)]
    found = torch.stack([torch.autograd.grad(loss, pair.a)[0] for loss in losses])
    assert abs(found.mean() - exact) < 4 * found.std() / 10


class Rejection(nn.Module):
    """z ~ Gamma(2, 1), and its guide a Gamma that a rejection sampler draws."""

    def __init__(self, events: bool) -> None:
        super().__init__()
        self.events, self.shape = events, nn.Parameter(torch.tensor(1.3))

    def sample(self, x: Tensor, of: type, shape: Tensor) -> None:
        size = (len(x), 2) if self.events else (len(x),)
        pyro.sample("z", of(shape.expand(size), torch.ones(size)).to_event(len(size) - 1))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self.sample(x, dist.Gamma, torch.tensor(2.0))
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            self.sample(x, ShapeAugmentedGamma, self.shape)


@pytest.mark.parametrize("events", [False, True])
def test_rejection_sampler_has_the_exact_gradient(events: bool) -> None:
    """|z| < 4 over 100 batches; without the score of what is accepted it is off by 100 errors."""
    pair = Rejection(events)
    q, p = (dist.Gamma(shape, 1.0) for shape in (pair.shape, torch.tensor(2.0)))
    kl = (1 + events) * torch.distributions.kl_divergence(q, p)
    (exact,) = torch.autograd.grad(kl, pair.shape)
    losses = [Elbo()(pair.model, pair.guide, torch.zeros(1000)).loss for _ in range(100)]
    found = torch.stack([torch.autograd.grad(loss, pair.shape)[0] for loss in losses])
    assert abs(found.mean() - exact) < 4 * found.std() / 10


def test_rejection_sampler_is_pyros_and_not_called_pathwise() -> None:
    pair, x = Rejection(events=False), torch.zeros(5)
    pyro.set_rng_seed(3)
    theirs = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x) / 5
    pyro.set_rng_seed(3)
    mine = Elbo()(pair.model, pair.guide, x).loss
    found, expected = (torch.autograd.grad(loss, pair.shape)[0] for loss in (mine, theirs))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="site 'z' is reparametrised in part"):
        Elbo(1, Pathwise())(pair.model, pair.guide, x)
    Elbo(1, ScoreFunction("none"))(pair.model, pair.guide, x).loss.backward()


class Shared(nn.Module):
    """A switch that all data share, in no plate or in plates of its own."""

    def __init__(self, plates: tuple[int, ...]) -> None:
        super().__init__()
        self.plates, self.a = plates, nn.Parameter(torch.tensor(0.4))

    def forward(self, x: Tensor, observe: bool) -> None:
        fn = dist.Bernoulli(logits=self.a.expand(self.plates)).to_event(len(self.plates))
        s = pyro.sample("s", fn)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.a * x, 1.0))
            if observe:
                pyro.sample("x", dist.Normal(z + s.mean(), 1.0), obs=x)


@pytest.mark.parametrize("plates", [(), (3,)], ids=str)
def test_leave_one_out_of_a_shared_site_is_refused(plates: tuple[int, ...]) -> None:
    pair, x = Shared(plates), torch.randn(4)
    model, guide = (lambda x: pair(x, True)), (lambda x: pair(x, False))
    with pytest.raises(ValueError, match=r"'s' lies outside the data plate: all.*'running mean'"):
        Elbo(3, ScoreFunction("leave one out"))(model, guide, x)
    loss = Elbo(3, ScoreFunction("none"))(model, guide, x).loss
    assert torch.autograd.grad(loss, pair.a)[0] != 0


def plated(where: str, guide: bool) -> Any:
    """Return a program with 3, 6 or 1 latent numbers, a KL of 1/2 each, shared or each datum's."""
    shared, left = where.startswith("shared"), where.startswith("left")
    sizes = {"alone": [], "left": [3], "left twice": [3, 2], "shared": [3], "shared twice": [3, 2]}

    def program(x: Tensor) -> None:
        own = [
            pyro.plate(f"own_{n}", size, dim=-1 - n - left) for n, size in enumerate(sizes[where])
        ]
        data = pyro.plate("data", len(x), dim=-1)
        fn = dist.Normal(torch.tensor([float(guide)]), 1.0).to_event(1)
        with ExitStack() as stack:
            for plate in own if shared else [data, *own]:
                stack.enter_context(plate)
            pyro.sample("z", fn)
        with data:
            if not guide:
                pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    return program


@pytest.mark.filterwarnings("ignore:The pair cannot carry a particle")
@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize(
    ("where", "kl"),
    [
        ("alone", 0.5),
        ("left", 1.5),
        ("left twice", 3),
        ("shared", 1.5 / 5),
        ("shared twice", 3 / 5),
    ],
)
def test_closed_form_kl_sums_over_plates(where: str, kl: float, particles: int) -> None:
    """1/2 for each number of a datum, and its fifth for one that 5 data share."""
    model, guide, x = plated(where, guide=False), plated(where, guide=True), torch.zeros(5)
    found = Elbo(particles, analytic_kl=True)(model, guide, x)
    assert found.kl.item() == pytest.approx(kl)
    assert (found.loss + found.bound).abs() < 1e-12
    if not where.startswith("shared"):
        free = FreeBits(particles, analytic_kl=True, nats=10.0)(model, guide, x)
        assert (free.loss - found.loss).item() == pytest.approx(10 - kl)


@pytest.mark.parametrize(("masked", "parts"), [(False, 1), (True, 1), (False, 3), (True, 3)])
def test_dreams_know_masks_and_plates(masked: bool, parts: int) -> None:
    """Sleep's gradient is parts * E m(x) x (z - a x) = parts * (1 - 2 a), half of it where x > 0.

    With z ~ N(0, 1), x ~ N(z, 1), of which each of several z has one. |z| < 4 over 100 batches.
    """
    a = torch.tensor(0.2, requires_grad=True)

    def program(x: Tensor, guide: bool) -> None:
        data, own = pyro.plate("data", len(x), dim=-1), pyro.plate("own", parts, dim=-2)
        with data, own:
            fn = dist.Normal(a * x.T if guide else torch.zeros(()), 1.0)
            z = pyro.sample("z", fn.mask(x.T > 0) if guide and masked else fn)  # type: ignore[attr-defined]
        with data:
            if not guide:
                pyro.sample("x", dist.Normal(z.T, 1.0).to_event(1), obs=x)

    objective, x = WakeSleep(1, phi="sleep"), torch.zeros(500, parts)
    losses = [
        objective(lambda x: program(x, False), lambda x: program(x, True), x).loss
        for _ in range(100)
    ]
    found = torch.stack([torch.autograd.grad(loss, a)[0] for loss in losses])
    exact = -parts * (1 - 2 * a.detach()) / (1 + masked)
    assert abs(found.mean() - exact) < 4 * found.std() / 10
