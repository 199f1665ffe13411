"""The guide that a model's run shows: how it factorises, its supports, and what it reaches."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import guides
from guides.latent_sites import faithful_parents, read
from guides.site_posteriors import ContinuousPosterior, posterior_for
from inference import SVI, Default, Elbo, Enumerate, Estimator, StickingTheLanding, log_weights
from inference.check import check
from inference.sites import sites_of

from .pairs import PAIRS, sequence

mlp = partial(guides.MLP, hidden=[8])


def linear(event_shape: tuple[int, ...], size: int) -> nn.Module:
    """A linear encoder whose posterior starts at N(0, 1)."""
    network = nn.Linear(math.prod(event_shape), size)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    return network


def seen(name: str, prior: Any, then: Callable[[Tensor], Tensor] = lambda z: z) -> Any:
    """A model of one latent site, a function of which is seen with noise 1."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = then(pyro.sample(name, prior))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return model


# Factorisation.

HIERARCHY = [{"z_3"}, {"z_3", "z_2"}, {"z_2", "z_1"}, {"z_1", "x"}]
FACTORS: list[tuple[list[str], list[set[str]], dict[str, str]]] = [
    (["z_3", "z_2", "z_1"], HIERARCHY, {"z_3": "", "z_2": "z_3", "z_1": "z_2"}),
    (["z_1", "z_2", "z_3"], HIERARCHY, {"z_1": "", "z_2": "z_1", "z_3": "z_2"}),
    # Two causes of x are independent before it is seen, and not after.
    (["a", "b"], [{"a"}, {"b"}, {"a", "b", "x"}], {"a": "", "b": "a"}),
    # A common cause, drawn last: its effects depend on each other where it is not known.
    (["a", "b", "c"], [{"c"}, {"a", "c"}, {"b", "c"}], {"a": "", "b": "a", "c": "a b"}),
    (["c", "a", "b"], [{"c"}, {"a", "c"}, {"b", "c"}], {"c": "", "a": "c", "b": "c"}),
    # No factor has both.
    (["a", "b"], [{"a", "x"}, {"b", "y"}], {"a": "", "b": ""}),
]


@pytest.mark.parametrize(("order", "factors", "expected"), FACTORS)
def test_faithful_inverse(
    order: list[str], factors: list[set[str]], expected: dict[str, str]
) -> None:
    assert faithful_parents(order, factors) == {k: tuple(v.split()) for k, v in expected.items()}


@pytest.mark.parametrize("seed", range(5))
def test_faithful_inverse_holds_for_gaussians(seed: int) -> None:
    """Joint precision with edges where two sites share a factor: log p is the product of q's.

    Given the sites before it, a site's mean has weight on its parents and on no others, and on all
    of them: the precision of the first sites together is the Schur complement of the others.
    """
    generator = torch.Generator().manual_seed(seed)
    size = 6
    edges = (torch.rand(size, size, generator=generator) < 0.35).triu(1)
    weights = torch.randn(size, size, generator=generator, dtype=torch.float64) * edges
    precision = weights + weights.T + 10 * torch.eye(size, dtype=torch.float64)
    names = [str(i) for i in range(size)]
    factors = [{names[i], names[j]} for i, j in edges.nonzero().tolist()]
    parents = faithful_parents(names, factors)
    covariance = precision.inverse()
    for i in range(1, size):
        marginal = covariance[: i + 1, : i + 1].inverse()
        used = {names[j] for j in range(i) if marginal[i, j].abs() > 1e-9}
        assert used == set(parents[names[i]])


class Markov(PyroModule):
    """A deep Markov model of T steps."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.step, self.decoder = nn.GRUCell(2, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x), 2)
            for t in range(self.steps):
                h = self.step(z.reshape(-1, 2)).reshape(z.shape)
                z = pyro.sample(f"z_{t + 1}", dist.Normal(h, 1.0).to_event(1))
                logits = self.decoder(z)
                pyro.sample(
                    f"x_{t + 1}", dist.Bernoulli(logits=logits).to_event(1), obs=x[..., t, :]
                )


def test_the_four_kinds_of_model_are_read() -> None:
    x = torch.bernoulli(torch.full((6, 3, 4), 0.5))
    model = Markov()
    guide = guides.AutoAmortized(model, mlp, x)
    assert guide.factorisation == "q(z_1 | x) q(z_2 | z_1, x) q(z_3 | z_2, x)"
    assert check(model, guide, x) == []
    flat = guides.AutoAmortized(model, mlp, x, structured=False)
    assert flat.factorisation == "q(z_1 | x) q(z_2 | x) q(z_3 | x)"
    layers = PAIRS["auto layers"]().guide
    assert layers.factorisation == "q(s | x) q(z | s, x) q(w | z, x)"
    assert PAIRS["auto semi-supervised"]().guide.factorisation == "q(label | x) q(z | label, x)"
    pair = PAIRS["conditional"]()
    guide = guides.AutoAmortized(pair.model, mlp, pair.x, classes={1: 3})
    assert guide.factorisation == "q(z | x)"
    assert check(pair.model, guide, pair.x) == []


def test_deep_markov_model_trains() -> None:
    x = torch.bernoulli(torch.full((6, 3, 4), 0.8))
    model = Markov()
    svi = SVI(model, guides.AutoAmortized(model, mlp, x), partial(torch.optim.Adam, lr=0.02))
    before = svi.evaluate(x, Elbo(100)).bound
    for _ in range(60):
        svi.step(x)
    assert svi.evaluate(x, Elbo(100)).bound > before + 1


# What it reaches.


class Hierarchy(PyroModule):
    r"""z_2 ~ N(0, 1), z_1 ~ N(a z_2, 1), x ~ N(w z_1 + v z_2, s2 I_3).

    log p(x): x is normal with mean 0 and the covariance U U' + s2 I, U = (w, w a + v). Joint
    posterior precision of (z_1, z_2): L = ((1 + w'w / s2, c), (c, 1 + a^2 + v'v / s2)) with
    c = w'v / s2 - a.
    The best mean-field guide misses 1/2 (log L_11 + log L_22 - log |L|).
    """

    a = 1.5
    s2 = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.tensor([1.0, 0.5, -0.5]))
        self.register_buffer("v", torch.tensor([-0.5, -0.5, 0.5]))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(self.a * z_2, 1.0).to_event(1))
            loc = z_1 * self.w + z_2 * self.v
            pyro.sample("x", dist.Normal(loc, self.s2**0.5).to_event(1), obs=x)

    @property
    def exact(self) -> dist.MultivariateNormal:
        w, v = cast(Tensor, self.w), cast(Tensor, self.v)
        total = w * self.a + v
        covariance = w.outer(w) + total.outer(total) + self.s2 * torch.eye(3)
        return dist.MultivariateNormal(torch.zeros(3), covariance)

    @property
    def mean_field_gap(self) -> float:
        w, v = cast(Tensor, self.w), cast(Tensor, self.v)
        first, last = 1 + w @ w / self.s2, 1 + self.a**2 + v @ v / self.s2
        cross = -self.a + w @ v / self.s2
        return 0.5 * (first * last / (first * last - cross**2)).log().item()


def reached(model: Any, guide: Any, x: Any, steps: int = 300) -> float:
    """Train without noise at the optimum, and return the ELBO."""
    rate = partial(torch.optim.Adam, lr=0.05)
    svi = SVI(model, guide, rate, Elbo(8, StickingTheLanding()), compile="off")
    for step in range(steps):
        if step in (steps // 2, steps * 3 // 4):
            for group in svi.optimizer.param_groups:
                group["lr"] /= 5
        svi.step(x)
    return svi.evaluate(x, Elbo(4000)).bound.item()


def test_structured_guide_reaches_log_p_and_mean_field_misses_its_gap() -> None:
    """Standard error of both: below 0.005 for q near the posterior, 0.01 for mean field."""
    model = Hierarchy()
    x = model.exact.sample((16,))
    exact = model.exact.log_prob(x).mean().item()
    assert model.mean_field_gap > 0.1
    for structured, gap in ((True, 0.0), (False, model.mean_field_gap)):
        pyro.set_rng_seed(1)
        guide = guides.AutoAmortized(model, linear, x, structured, hidden=4)
        assert reached(model, guide, x) == pytest.approx(exact - gap, abs=0.01)


def test_positive_site_reaches_log_p() -> None:
    """z = exp(u), u ~ N(0, 1), x ~ N(u, 1): x ~ N(0, 2), and u given x is N(x / 2, 1 / 2)."""
    model = seen("z", dist.LogNormal(0.0, 1.0), torch.log)
    x = 2**0.5 * torch.randn(16)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()
    found = reached(model, guides.AutoAmortized(model, linear, x), x, 200)
    assert found == pytest.approx(exact, abs=0.01)


@pytest.mark.slow
def test_family_of_a_correlated_vector_reaches_log_p() -> None:
    """A site of two coordinates with the posterior covariance of `Hierarchy`'s two sites."""
    truth = Hierarchy()
    prior = torch.tensor([[1 + truth.a**2, truth.a], [truth.a, 1.0]])
    weight = torch.stack([cast(Tensor, truth.w), cast(Tensor, truth.v)])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), prior))
            pyro.sample("x", dist.Normal(z @ weight, truth.s2**0.5).to_event(1), obs=x)

    x = truth.exact.sample((16,))
    guide = guides.AutoAmortized(model, linear, x, family=guides.FullNormal)
    exact = truth.exact.log_prob(x).mean().item()
    assert reached(model, guide, x) == pytest.approx(exact, abs=0.01)


# Supports.

INTERVALS: dict[str, tuple[Any, float, float]] = {
    "real": (dist.Normal(0.0, 1.0), -40, 40),
    "positive": (dist.Gamma(2.0, 1.0), 0, 400),
    "above 1": (dist.Pareto(torch.tensor(1.0), torch.tensor(2.0)), 1, 400),
    "unit interval": (dist.Beta(2.0, 2.0), 0, 1),
    "interval": (dist.Uniform(torch.tensor(-1.0), torch.tensor(3.0)), -1, 3),
}


def posterior(prior: Any, x: Tensor) -> Any:
    """Return q of the site z, with parameters that are not at their start."""
    model = seen("z", prior, lambda z: z.flatten(1).sum(-1) if prior.event_shape else z * 1.0)
    guide = guides.AutoAmortized(model, linear, x)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.normal_(0, 0.5)
    site = sites_of(guide, (x,))["z"]
    assert prior.support.check(site.value).all()
    assert site.value.shape == (len(x), *prior.event_shape)
    return site.distribution


@pytest.mark.parametrize("name", INTERVALS)
def test_density_integrates_to_one(name: str) -> None:
    prior, low, high = INTERVALS[name]
    q = posterior(prior, torch.tensor([-0.5, 1.0], dtype=torch.float64))
    # Points that are dense at the ends, where a density may have its mass: z = low + (high - low)
    # sigmoid(t), by the trapezoid rule, exact for a function that dies out at both ends.
    t = torch.linspace(-25, 25, 20001, dtype=torch.float64).unsqueeze(-1)
    z = low + (high - low) * t.sigmoid()
    jacobian = (high - low) * t.sigmoid() * (-t).sigmoid()
    total = (q.log_prob(z).exp() * jacobian).nan_to_num(0).sum(0) * (t[1] - t[0])
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=0, atol=2e-3)


def test_density_on_the_simplex_integrates_to_one() -> None:
    """Two shares have one free coordinate, which the density is with respect to."""
    q = posterior(dist.Dirichlet(torch.ones(2)), torch.tensor([-0.5, 1.0], dtype=torch.float64))
    t = torch.linspace(-25, 25, 20001, dtype=torch.float64).unsqueeze(-1)
    share = torch.stack([t.sigmoid(), (-t).sigmoid()], -1)
    total = (q.log_prob(share).exp() * t.sigmoid() * (-t).sigmoid()).sum(0) * (t[1] - t[0])
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


SHAPES: dict[str, Any] = {
    "vector": dist.Normal(torch.zeros(3), 1.0).to_event(1),
    "matrix": dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
    "correlated": dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    "box": dist.Uniform(torch.zeros(2), torch.tensor([1.0, 5.0])).to_event(1),
    "simplex": dist.Dirichlet(torch.ones(4)),
    "simplices": dist.Dirichlet(torch.ones(2, 3)).to_event(1),
    "bits": dist.Bernoulli(torch.full((3,), 0.5)).to_event(1),
    "bit": dist.Bernoulli(torch.tensor(0.5)),
    "label": dist.Categorical(torch.ones(3)),
    "labels": dist.Categorical(torch.ones(2, 3)).to_event(1),
    "one-hot": dist.OneHotCategorical(torch.ones(3)),
    "one-hots": dist.OneHotCategorical(torch.ones(2, 3)).to_event(1),
    "cholesky factor": dist.LKJCholesky(3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_support_has_its_posterior(name: str) -> None:
    """Drawn within it, of its shape, with a finite density, also by value and for particles."""
    prior = SHAPES[name]
    site = posterior_for("z", prior.support, tuple(prior.event_shape), guides.DiagonalNormal)
    q: Any = site(torch.randn(5, 4, site.parameter_dim))
    assert (q.batch_shape, q.event_shape) == ((5, 4), prior.event_shape)
    z = q.sample()
    assert prior.support.check(z).all()
    assert q.log_prob(z.clone()).shape == (5, 4)
    torch.testing.assert_close(q.log_prob(z.clone()), q.log_prob(z), rtol=1e-3, atol=1e-2)
    assert site.vector(z).shape == (5, 4, site.vector_dim)
    if hasattr(q, "enumerate_support") and name in ("bit", "label", "one-hot"):
        values = q.enumerate_support()
        torch.testing.assert_close(q.log_prob(values).exp().sum(0), torch.ones(5, 4))


def test_vector_is_what_the_draw_is_made_of() -> None:
    """log of a positive number, logit of a share."""
    cases: list[tuple[Any, Any]] = [
        (dist.Gamma(2.0, 1.0), torch.log),
        (dist.Beta(2.0, 1.0), torch.logit),
    ]
    for prior, inverse in cases:
        site = posterior_for("z", prior.support, (), guides.DiagonalNormal)
        assert isinstance(site, ContinuousPosterior)
        z = torch.tensor([0.2, 0.7])
        torch.testing.assert_close(site.vector(z), inverse(z).unsqueeze(-1))


def test_labels_are_drawn_in_proportion() -> None:
    """20,000 draws, 5 standard errors: wrong once in 300,000 runs."""
    logits = torch.tensor([0.0, 1.0, -1.0])
    support = cast(Any, dist.OneHotCategorical(logits=logits).support)
    one_hot = posterior_for("z", support, (3,), guides.DiagonalNormal)
    for q in (guides.Label(logits=logits), cast(Any, one_hot(logits))):
        draws = q.sample((20000,))
        shares = draws.mean(0) if q.event_shape else draws.bincount(minlength=3) / 20000
        p = logits.softmax(-1)
        assert ((shares - p).abs() < 5 * (p * (1 - p) / 20000).sqrt()).all()


# The batch beside x, known labels, global sites, ways to make it.


def test_starts_as_mean_field_and_what_is_known_is_kept() -> None:
    pair = PAIRS["auto semi-supervised"]()
    weights = log_weights(pair.model, pair.guide, pair.x, 50)
    label = weights.draws["label"]
    assert (label[:, :3] == torch.arange(3)).all()
    assert weights.guide["label"][:, :3].abs().max() < 1e-6
    assert weights.guide["label"][:, 3:].max() < -1e-3
    q = cast(Any, weights.distributions("z")[0]).base_dist.loc
    torch.testing.assert_close(q, q[:1].expand_as(q))  # whatever the label


def test_label_beside_x_shifts_the_posterior() -> None:
    """z ~ N(m_y, 1), x ~ N(z, 1): x given y is N(m_y, 2), and z has the mean (x + m_y) / 2."""
    means = torch.tensor([-1.0, 2.0, 0.5])

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(means[y], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    y = torch.arange(18) % 3
    x = means[y] + 2**0.5 * torch.randn(18)
    exact = dist.Normal(means[y], 2**0.5).log_prob(x).mean().item()
    guide = guides.AutoAmortized(model, linear, (x, y), classes={1: 3})
    assert reached(model, guide, (x, y), 250) == pytest.approx(exact, abs=0.01)


@pytest.mark.filterwarnings("ignore:The pair cannot carry")
def test_global_site_has_parameters_of_its_own() -> None:
    pair = PAIRS["shared weight"]()
    guide = guides.AutoAmortized(pair.model, mlp, pair.x)
    assert guide.factorisation == "q(w) q(z | w, x)"
    assert check(pair.model, guide, pair.x) == []
    svi = SVI(pair.model, guide, partial(torch.optim.Adam, lr=0.02), Elbo(8))
    before = svi.evaluate(pair.x, Elbo(200)).bound
    for _ in range(60):
        svi.step(pair.x)
    assert svi.evaluate(pair.x, Elbo(200)).bound > before + 0.02


def test_without_a_batch_it_is_made_at_the_first_call() -> None:
    pair = PAIRS["auto layers"]()
    guide = guides.AutoAmortized(pair.model, nn.Sequential(nn.Linear(12, 5), nn.ReLU()))
    assert not list(guide.parameters())
    svi = SVI(pair.model, guide)
    svi.prepare(pair.x)
    assert {id(p) for p in guide.parameters()} <= {id(p) for p in svi.parameters.values()}
    svi.step(pair.x)
    assert check(pair.model, guide, pair.x) == []
    weights = log_weights(pair.model, guide, pair.x, 3)
    assert weights.total.shape == (3, 6)


def test_reading_leaves_no_trace_of_itself() -> None:
    normed = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))

    def inner(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(normed(z) + shift, 1.0).to_event(1), obs=x)

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = normed

        def forward(self, x: Tensor) -> None:
            inner(x)

    x, model = torch.randn(4, 1), Model()
    buffers = {name: value.clone() for name, value in normed.named_buffers()}
    states = []
    for reads in (False, True):
        pyro.set_rng_seed(4)
        if reads:
            with pyro.poutine.trace() as trace:
                read(model, (x,), True)
            assert not trace.trace.nodes
        states.append(torch.rand(3))
    assert torch.equal(*states)
    assert normed.training
    assert all(torch.equal(value, buffers[name]) for name, value in normed.named_buffers())
    assert "shift" not in pyro.get_param_store()


def test_double_precision_and_other_dtypes_follow_x() -> None:
    model = seen("z", dist.Uniform(torch.tensor(0.0), torch.tensor(2.0)))
    for dtype in (torch.float32, torch.float64):
        guide = guides.AutoAmortized(model, mlp, torch.zeros(4, dtype=dtype))
        assert {p.dtype for p in guide.parameters()} == {dtype}
        assert {b.dtype for b in guide.buffers()} == {dtype}


# What it refuses.


def no_plate(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def nothing_latent(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


def other_plate(x: Tensor) -> None:
    with pyro.plate("data", len(x)), pyro.plate("time", 3, dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.expand(3, -1))


def masked(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        with pyro.poutine.mask(mask=cast(Any, x > 0)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def scaled(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        with pyro.poutine.scale(scale=0.1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def unreadable(x: Tensor) -> None:
    """Code that takes plain tensors only, as compiled code may."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        if type(z) is not Tensor:
            raise TypeError(f"Expected a Tensor; got a {type(z).__name__}.")
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def own_bounds(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(torch.zeros(()), x.abs() + 1))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def learned_bounds(x: Tensor) -> None:
    top = pyro.param("top", torch.tensor(1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(torch.zeros(()), top))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def flat_network(event_shape: tuple[int, ...], size: int) -> nn.Module:
    return nn.Linear(1, size + 1)


sound = seen("z", dist.Normal(0.0, 1.0))
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (no_plate, {}, r"observes nothing in a plate of size 4.*with pyro.plate\('data', len\(x\)\)"),
    (nothing_latent, {}, "no latent site in its data plate.*AutoGuides"),
    (other_plate, {}, r"'z' is in the plate 'time' besides the data's.*\.to_event\(\)"),
    (masked, {}, "'z' is masked.*known="),
    (scaled, {}, r"'z' is scaled by 0.1.*Elbo\(beta="),
    (unreadable, {}, "can't be read: Expected a Tensor.*structured=False"),
    (own_bounds, {}, "'z' has a support whose upper_bound differs from datum to datum"),
    (learned_bounds, {}, "'z' has a support whose upper_bound is learned"),
    (seen("z", dist.Poisson(2.0)), {}, "'z' has the support .*Integer.*Sum it out.*by hand"),
    (seen("z", dist.ProjectedNormal(torch.ones(3)), lambda z: z.sum(-1)), {}, "Sample reals"),
    (sound, {"encoder": flat_network}, r"to map x \(4, 1\) to shape \(4, 2\); got \(4, 3\)"),
    (sound, {"known": {"z": 1}}, r"name a categorical site, of which there are \[\]"),
]


@pytest.mark.parametrize(("model", "arguments", "message"), REFUSED)
def test_refusal(model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guides.AutoAmortized(model, x=torch.randn(4), **arguments)


@pytest.mark.parametrize(
    ("make", "arguments", "estimator"),
    [
        (PAIRS["ladder"], {}, Default()),
        (PAIRS["conditional"], {"classes": {1: 3}}, Default()),
        (PAIRS["semi-supervised"], {"known": {"y": 1}}, Enumerate()),
        (partial(sequence, lengths=False), {}, Default()),
    ],
    ids=["layers", "conditional", "semi-supervised", "deep Markov"],
)
def test_it_trains_every_structured_model_of_the_house(
    make: Any, arguments: dict[str, Any], estimator: Estimator
) -> None:
    pair = make()
    guide = guides.AutoAmortized(
        pair.model, partial(guides.MLP, hidden=[8]), pair.x, hidden=8, **arguments
    )
    assert check(pair.model, guide, pair.x) == []
    objective = Elbo(8, estimator)
    svi = SVI(pair.model, guide, lambda p: torch.optim.Adam(p, lr=0.02), objective=objective)
    svi.prepare(pair.x)
    before = svi.evaluate(pair.x, Elbo(200)).bound
    for _ in range(40):
        svi.step(pair.x)
    assert svi.evaluate(pair.x, Elbo(200)).bound > before + 0.1
