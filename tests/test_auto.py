"""The guide that is read off a model: structure, supports, and bounds against closed forms."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import guides
from inference import SVI, Elbo, log_weights
from inference.check import check

from .scenarios import LinearGaussian


def linear(event_shape: tuple[int, ...], parameter_dim: int) -> nn.Module:
    layer = nn.Linear(event_shape[0], parameter_dim)
    with torch.no_grad():
        layer.weight *= 0.1
    return layer


def chain(x: Tensor) -> None:
    """z2 -> z1 -> x, all normal of unit variance around the one before: x ~ N(0, 3)."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z1, 1.0).to_event(1), obs=x)


def collider(x: Tensor) -> None:
    """Two causes that explain each other away: x = a + b + noise."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(a + b, 0.5).to_event(1), obs=x)


def sequence(x: Tensor) -> None:
    """Three states, each seen."""
    z = torch.zeros(len(x), 1)
    with pyro.plate("data", len(x)):
        for t in range(3):
            z = pyro.sample(f"z_{t}", dist.Normal(0.8 * z, 1.0).to_event(1))
            pyro.sample(f"x_{t}", dist.Normal(z, 1.0).to_event(1), obs=x[:, t : t + 1])


def test_it_reads_the_faithful_inverse() -> None:
    parents = [
        guides.AutoAmortized(model, linear, torch.zeros(4, 3)).parents
        for model in (chain, collider, sequence)
    ]
    assert parents[0] == {"z1": [], "z2": ["z1"]}
    assert parents[1] == {"b": [], "a": ["b"]}
    assert parents[2] == {"z_2": [], "z_1": ["z_2"], "z_0": ["z_1"]}
    flat = guides.AutoAmortized(sequence, linear, torch.zeros(4, 3), structured=False)
    assert not any(flat.parents.values())


@pytest.mark.parametrize(
    ("model", "variance", "gap"),
    [
        # The posterior's precision is M = [[2, -1], [-1, 2]]: 1/2 (2 log 2 - log |M|), |M| = 3.
        (chain, 3.0, 0.14384),
        # M = I + 4 * ones: 1/2 (2 log 5 - log 9).
        (collider, 2.25, 0.51083),
    ],
)
def test_structure_closes_the_gap_of_mean_field(
    model: Callable[[Tensor], None], variance: float, gap: float
) -> None:
    """The posterior is normal with a mean linear in x and in the sites before: in the family."""
    x = variance**0.5 * torch.randn(100, 1)
    log_px = dist.Normal(0.0, variance**0.5).log_prob(x).mean()
    for structured, expected in ((True, 0.0), (False, gap)):
        guide = guides.AutoAmortized(model, linear, x, structured)
        svi = SVI(
            model,
            guide,
            lambda p: torch.optim.Adam(p, lr=0.05),
            objective=Elbo(4),
            scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 300),
        )
        svi.prepare(x)
        assert svi.scheduler
        for _ in range(300):
            svi.step(x)
            svi.scheduler.step()
        with torch.no_grad():
            bound = log_weights(model, guide, x, 1000).total.mean()
        assert (log_px - bound).item() == pytest.approx(expected, abs=0.01)


SITES: dict[str, Callable[[], Any]] = {
    "positive": lambda: dist.Gamma(2.0, 1.0),
    "unit interval": lambda: dist.Beta(2.0, 3.0),
    "interval": lambda: dist.Uniform(-1.0, 2.0),
    "real": lambda: dist.StudentT(3.0),
    "vector of positives": lambda: dist.LogNormal(torch.zeros(2, 3), 1.0).to_event(2),
    "simplex": lambda: dist.Dirichlet(torch.ones(4)),
    "correlated": lambda: dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.5),
    "triangle": lambda: dist.LKJCholesky(3),
    "bits": lambda: dist.Bernoulli(torch.full((2, 2), 0.3)).to_event(2),
    "category": lambda: dist.Categorical(torch.ones(3)),
    "categories": lambda: dist.Categorical(torch.ones(2, 3)).to_event(1),
    "one-hot": lambda: dist.OneHotCategorical(torch.ones(3)),
}


@pytest.mark.parametrize("name", SITES)
def test_every_support(name: str) -> None:
    """A site of each support, one that depends on it, and a global one."""
    fn = SITES[name]()

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.LogNormal(0.0, 0.1))
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", fn)
            mean = s.float().reshape(*s.shape[: s.dim() - len(fn.event_shape)], -1).sum(-1)
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)

    x = torch.randn(5)
    guide = guides.AutoAmortized(model, lambda _, size: _Scalar(size), x)
    assert guide.parents == {"z": [], "s": ["z"]}
    assert check(model, guide, x) == []
    with torch.no_grad():
        for weight in guide.parameters():
            weight += 0.1 * torch.randn_like(weight)
        values = guide(x)
    assert fn.support.check(values["s"]).all()
    if fn.event_shape == () and not fn.support.is_discrete:
        head = guide.heads["s"](torch.tensor([0.3, -0.5]))
        grid = head.sample(torch.Size([20_001])).sort().values
        grid = torch.linspace(*head.icdf(torch.tensor([1e-5, 1 - 1e-5])).tolist(), 20_001)  # type: ignore[arg-type]
        total = torch.trapezoid(head.log_prob(grid).exp(), grid)
        assert total.item() == pytest.approx(1, abs=2e-3)


class _Scalar(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unsqueeze(-1))


def test_labels_beside_x() -> None:
    """A tuple batch; integers are categories, and a negative one is none of them."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(y.unsqueeze(-1).float(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x, y = torch.randn(6, 1), torch.tensor([0, 1, 2, -1, 1, -1])
    guide = guides.AutoAmortized(model, linear, (x, y))
    assert guide.classes == [3]
    assert guide.beside is not None
    assert check(model, guide, (x, y)) == []
    a, b = guide._encode(x, y), guide._encode(x, torch.full_like(y, -1))
    torch.testing.assert_close(a[3], b[3])
    assert not torch.allclose(a[0], b[0])
    SVI(model, guide).step((x, y))


def test_wrong_models_are_refused_with_the_remedy() -> None:
    def no_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def count(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("n", dist.Poisson(2.0))

    def two_plates(x: Tensor) -> None:
        with pyro.plate("time", 3, dim=-2), pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for model, message in (
        (no_plate, r"no latent site in a plate of size 4.*it has 'z'.*pyro.plate\('data'"),
        (count, r"Site 'n' has the support .*Write its guide by hand"),
        (two_plates, r"Site 'z' is in the plates \['time', 'data'\].*to_event"),
    ):
        with pytest.raises(ValueError, match=message):
            guides.AutoAmortized(model, linear, torch.zeros(4, 1))


def test_reading_leaves_the_random_state_alone() -> None:
    pyro.set_rng_seed(1)
    expected: Any = linear((1,), 4)
    pyro.set_rng_seed(1)
    guide = guides.AutoAmortized(chain, linear, torch.zeros(4, 1))
    encoder: Any = guide.encoder
    assert torch.equal(encoder.weight, expected.weight)


def test_bound_is_that_of_the_linear_gaussian_model() -> None:
    """As one site; the log weights of 1,000 draws have its log p(x) for their mean, to 4 se."""
    truth = LinearGaussian(torch.tensor([[1.0], [0.5]]), torch.zeros(2), 0.5)
    model, x = truth.model(), truth.sample(3)
    guide = guides.AutoAmortized(model, guides.MLP, x)
    with torch.no_grad():
        weights = log_weights(model, guide, x, 100_000).total.exp()
    error = weights.std(0) / len(weights) ** 0.5
    assert ((weights.mean(0) - truth.log_prob(x).exp()) / error).abs().max() < 4
