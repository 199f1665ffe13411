"""Structured pairs against closed forms: layers, labels, sequences."""

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import guides
import models
from inference import SVI, Elbo, Enumerate, Iwae, KLWeight, log_weights
from inference.check import check
from inference.data import Dataset, Split
from inference.evaluation import evaluate
from inference.sites import sites_of
from inference.training import fit

from .pairs import PAIRS, Pair, bits, layered


@pytest.fixture(autouse=True)
def _double() -> Any:
    """Closed forms are compared in double precision."""
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Affine(nn.Module):
    """The distribution N(a h + b, s^2), coordinate by coordinate."""

    def __init__(self, a: float, b: float, s: float) -> None:
        super().__init__()
        self.a, self.b, self.s = (nn.Parameter(torch.tensor(v)) for v in (a, b, s))

    def forward(self, h: Tensor) -> Any:
        return dist.Normal(self.a * h + self.b, self.s).to_event(1)


# z_2 ~ N(0, 1), z_1 ~ N(0.8 z_2 + 0.3, 0.5^2), x ~ N(z_1, 0.7^2), so x ~ N(0.3, V) with
# V = 0.8^2 + 0.5^2 + 0.7^2 = 1.38. Normals are conditioned by Cov / Var:
# z_1 | x: mean 0.3 + 0.89 / V (x - 0.3), variance 0.89 - 0.89^2 / V (0.89 = 0.8^2 + 0.5^2);
# z_2 | x: mean 0.8 / V (x - 0.3), variance 1 - 0.8^2 / V; z_2 | z_1 the same with 0.89 for V.
V, LOW = 1.38, 0.89


def linear_layers() -> tuple[models.Hierarchical, nn.Module]:
    layer = Affine(0.8, 0.3, 0.5)
    likelihood = models.Normal((3,), 0.7, learn_scale=False)
    prior = models.StandardNormal(3)
    return models.Hierarchical(prior, [layer], nn.Identity(), likelihood), layer


def upwards(gain: float, variance: float) -> Affine:
    return Affine(gain, -0.3 * gain, variance**0.5)


def bottom_up(layer: nn.Module) -> Any:
    low = Affine(LOW / V, 0.3 * (1 - LOW / V), (LOW - LOW**2 / V) ** 0.5)
    return guides.BottomUp([low, upwards(0.8 / LOW, 1 - 0.64 / LOW)])


def ladder(layer: nn.Module) -> Any:
    # What x says of z_1 alone is N(x, 0.7^2); the model's layer is the rest.
    heads = [Affine(1.0, 0.0, 0.7), upwards(0.8 / V, 1 - 0.64 / V)]
    return guides.Ladder([nn.Identity(), nn.Identity()], heads, [layer])


@pytest.mark.parametrize("make", [bottom_up, ladder])
def test_linear_layers_have_the_exact_posterior(make: Any) -> None:
    model, layer = linear_layers()
    x = torch.randn(5, 3)
    exact = dist.Normal(torch.tensor(0.3), V**0.5).to_event(0).log_prob(x).sum(-1)
    log_w = log_weights(model, make(layer), x, 4).total
    torch.testing.assert_close(log_w, exact.expand(4, 5))


def test_bottom_up_guide_is_sound() -> None:
    torch.set_default_dtype(torch.float32)
    pair = layered(top_down=False)
    assert check(pair.model, pair.guide, pair.x) == []
    bounds = []
    for how in ("graph", "off"):
        pyro.set_rng_seed(1)
        pair = layered(top_down=False)
        svi = SVI(pair.model, pair.guide, compile=how)
        bounds.append(torch.stack([svi.step(pair.x).bound for _ in range(3)]))
    torch.testing.assert_close(*bounds, rtol=1e-4, atol=1e-4)


def test_layers_must_fit() -> None:
    with pytest.raises(ValueError, match="at least one layer below the top one; got none"):
        models.Hierarchical(
            models.StandardNormal(2), [], nn.Identity(), models.Normal((2,)), skip=True
        )
    with pytest.raises(ValueError, match="L steps, L heads and L - 1 priors; got 2, 2 and 2"):
        guides.Ladder([nn.Identity()] * 2, [nn.Identity()] * 2, [nn.Identity()] * 2)


def test_skip_connections_reach_x_past_the_lower_layers() -> None:
    torch.set_default_dtype(torch.float32)
    model = PAIRS["ladder"]().model
    high = torch.zeros(6, 1, requires_grad=True)
    held = poutine.condition(model, data={"z_1": torch.zeros(6, 2), "z_2": high})
    density = sites_of(held, (bits(),))["x"].log_prob().sum()
    (gradient,) = torch.autograd.grad(density, high)
    assert (gradient != 0).all()


def semi(dtype: torch.dtype = torch.float64) -> Pair:
    pair = PAIRS["semi-supervised"]()
    x, y = pair.x
    return pair._replace(x=(x.to(dtype), y))


class Fixed(nn.Module):
    """A family of one point of noise: z = loc + 0.3 scale, its density that of the normal."""

    def forward(self, parameters: Tensor) -> Any:
        loc, log_scale = parameters.chunk(2, -1)
        return Frozen(loc, log_scale.exp()).to_event(1)


class Frozen(dist.Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return (self.loc + 0.3 * self.scale).expand(self._extended_shape(sample_shape))


def by_hand(pair: Pair) -> Tensor:
    """M2's two bounds of each datum, summed over labels in a loop, z drawn by `Fixed`."""
    (x, y), model, guide = pair.x, pair.model, pair.guide
    classes = model.classes
    features, log_q = guide.encoder(x), guide.classifier(x).log_softmax(-1)
    bounds = []
    for n in range(len(x)):
        of_label = []
        for c in range(classes):
            one = nn.functional.one_hot(torch.tensor(c), classes).to(x.dtype)
            q = guide.family(guide.head(torch.cat([features[n], one])))
            z = q.rsample()
            p = model.likelihood(model.decoder(torch.cat([z, one])))
            log_p = p.log_prob(x[n]) + model.prior(one).log_prob(z) - torch.tensor(classes).log()
            of_label.append(log_p - q.log_prob(z))
        if y[n] >= 0:
            bounds.append(of_label[y[n]])
        else:
            terms = zip(log_q[n].exp(), of_label, log_q[n], strict=True)
            bounds.append(sum(q * (w - log) for q, w, log in terms))
    return torch.stack(bounds)


def test_enumeration_is_the_sum_over_labels() -> None:
    """Value and gradient of M2's objective, the classifier's term in the gradient alone."""
    pair = semi()
    pair.guide.family = Fixed()
    x, y = pair.x
    named = {**dict(pair.model.named_parameters()), **dict(pair.guide.named_parameters())}
    estimate = Elbo(2, Enumerate())(pair.model, pair.guide, pair.x)
    expected = by_hand(pair).mean()
    torch.testing.assert_close(estimate.bound, expected.detach())
    torch.testing.assert_close(estimate.reconstruction - estimate.kl, expected.detach())
    log_q = pair.guide.classifier(x).log_softmax(-1)[torch.arange(6), y]
    loss = -expected - pair.guide.alpha * log_q[y >= 0].sum() / 6
    mine, theirs = (torch.autograd.grad(v, list(named.values())) for v in (estimate.loss, loss))
    for name, a, b in zip(named, mine, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_log_weight_of_a_known_label_is_that_of_the_joint() -> None:
    """log w = log p(x, y, z) - log q(z | x, y) to the last bits, whatever the classifier says."""
    pair = semi()
    pair.guide.family = Fixed()
    weights = log_weights(pair.model, pair.guide, pair.x, 3)
    known = pair.x[1] >= 0
    torch.testing.assert_close(weights.total[:, known], by_hand(pair)[known].expand(3, -1))
    assert (weights.guide["classifier"] == 0).all()


def test_enumeration_and_draws_have_one_mean() -> None:
    """|z| < 4 against 20,000 draws: wrong once in 16,000."""
    pair = semi()
    total = log_weights(pair.model, pair.guide, pair.x, 20_000).total.mean(1)
    exact = Elbo(5_000, Enumerate())(pair.model, pair.guide, pair.x).bound
    assert abs(total.mean() - exact) < 4 * total.std() * (1 / 20_000 + 1 / 5_000) ** 0.5


def test_enumeration_agrees_with_pyros() -> None:
    pair = semi()
    pair.guide.family = Fixed()
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    guide = pyro.infer.config_enumerate(pair.guide.forward)
    theirs = elbo.differentiable_loss(pair.model.forward, guide, *pair.x) / 6
    mine = Elbo(1, Enumerate())(pair.model, pair.guide, pair.x).loss
    torch.testing.assert_close(mine, theirs)


def test_enumeration_with_a_weight_and_a_kl_in_closed_form() -> None:
    """Both weigh the same KL: the closed form is the mean of the other's; |z| < 4 of 5,000."""
    pair = semi()
    with KLWeight(0.3):
        drawn = Elbo(5_000, Enumerate())(pair.model, pair.guide, pair.x)
        exact = Elbo(5_000, Enumerate(), analytic_kl=True)(pair.model, pair.guide, pair.x)
    assert drawn.kl.item() == pytest.approx(exact.kl.item(), abs=0.02)
    assert drawn.loss.item() == pytest.approx(exact.loss.item(), abs=0.02)


class TwoSwitches(nn.Module):
    """Two discrete sites, three values and two, the second depending on the first."""

    def __init__(self, guide: bool) -> None:
        super().__init__()
        self.guide, self.a, self.b = guide, nn.Parameter(torch.randn(3)), nn.Linear(1, 1)

    def densities(self, a: Tensor) -> tuple[Any, Any]:
        logits = self.b(a.unsqueeze(-1).to(self.a)).squeeze(-1)
        return dist.Categorical(logits=self.a), dist.Bernoulli(logits=logits)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            p_a, _ = self.densities(x)
            a = pyro.sample("a", p_a)
            b = pyro.sample("b", self.densities(a)[1])
            if not self.guide:
                pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)


def test_enumeration_of_two_sites() -> None:
    model, guide, x = TwoSwitches(guide=False), TwoSwitches(guide=True), torch.randn(4)
    expected = torch.zeros(4)
    for a, b in itertools.product(torch.arange(3.0), torch.arange(2.0)):
        (p_a, p_b), (q_a, q_b) = model.densities(a), guide.densities(a)
        log_q = q_a.log_prob(a) + q_b.log_prob(b)
        log_p = p_a.log_prob(a) + p_b.log_prob(b) + dist.Normal(a + 2 * b, 1.0).log_prob(x)
        expected = expected + log_q.exp() * (log_p - log_q)
    estimate = Elbo(1, Enumerate())(model, guide, x)
    torch.testing.assert_close(estimate.bound, expected.mean().detach())


class OneSwitch(nn.Module):
    """A site of three values, one-hot or not, masked or not; z depends on it, and x on both."""

    def __init__(self, guide: bool, one_hot: bool, tiled: bool = False) -> None:
        super().__init__()
        self.guide, self.one_hot, self.tiled = guide, one_hot, tiled
        self.logits, self.means = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, mask: Tensor) -> None:
        kind = dist.OneHotCategorical if self.one_hot else dist.Categorical
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", kind(logits=self.logits).mask(mask))  # type: ignore[attr-defined]
            if self.tiled:
                assert y.dim() == 1 + self.one_hot
            mean = y @ self.means if self.one_hot else self.means[y]
            if not self.guide:
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
def test_enumeration_of_masked_and_one_hot_sites(one_hot: bool, tiled: bool) -> None:
    """E_q of log p(x | y) + m (log p(y) - log q(y)), q the law of the draws where m is 0 too."""
    model, guide = (OneSwitch(guide, one_hot, tiled) for guide in (False, True))
    x, mask = torch.randn(4), torch.tensor([True, False, True, False])
    log_q, log_p = guide.logits.log_softmax(-1), model.logits.log_softmax(-1)
    of_x = dist.Normal(model.means, 1.0).log_prob(x.unsqueeze(-1))
    expected = (log_q.exp() * (of_x + mask.unsqueeze(-1) * (log_p - log_q))).sum(-1).mean()
    estimate = Elbo(2, Enumerate())(model, guide, (x, mask))
    torch.testing.assert_close(estimate.bound, expected.detach())
    named = [*guide.parameters(), *model.parameters()]
    found, exact = (
        torch.autograd.grad(v, named, allow_unused=True) for v in (estimate.loss, -expected)
    )
    for a, b in zip(found, exact, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


def test_enumeration_refuses_an_inner_plate() -> None:
    def program(x: Tensor, observe: bool) -> None:
        data = pyro.plate("data", len(x), dim=-1)
        with data, pyro.plate("parts", 2, dim=-2):
            y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.3)))
        with data:
            if observe:
                pyro.sample("x", dist.Normal(y.sum(-2), 1.0), obs=x)

    with pytest.raises(ValueError, match="'y' sits in a plate within the data's, 'parts'"):
        Elbo(1, Enumerate())(
            lambda x: program(x, True), lambda x: program(x, False), torch.randn(4)
        )


@pytest.mark.parametrize(
    ("name", "objective", "message"),
    [
        ("semi-supervised", Iwae(3, Enumerate()), "Iwae is not one: take it with Elbo"),
        ("bernoulli", Elbo(1, Enumerate()), "the guide has none"),
    ],
)
def test_enumeration_refuses(name: str, objective: Any, message: str) -> None:
    torch.set_default_dtype(torch.float32)
    pair = PAIRS[name]()
    with pytest.raises(ValueError, match=message):
        objective(pair.model, pair.guide, pair.x)


def test_labels_are_drawn_with_their_probabilities() -> None:
    """|z| < 4.5 for each of 3 frequencies of 20,000: wrong once in 49,000."""
    p = torch.tensor([0.2, 0.5, 0.3])
    found = guides.Label(probs=p).expand([2]).sample((10_000,))
    assert found.shape == (10_000, 2)
    z = (found.flatten().bincount() / 20_000 - p) / (p * (1 - p) / 20_000).sqrt()
    assert z.abs().max() < 4.5


def test_captured_steps_enumerate() -> None:
    torch.set_default_dtype(torch.float32)
    estimates = []
    for how in ("graph", "off"):
        pyro.set_rng_seed(1)
        pair = semi(torch.float32)
        svi = SVI(pair.model, pair.guide, objective=Elbo(2, Enumerate()), compile=how)
        estimates.append(torch.stack([svi.step(pair.x).bound for _ in range(4)]))
    torch.testing.assert_close(*estimates, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["conditional", "semi-supervised"])
def test_labels_go_all_the_way(name: str) -> None:
    """A data set that gives labels is fitted and evaluated; the known label raises the bound."""
    torch.set_default_dtype(torch.float32)
    pair = PAIRS[name]()
    x, y = pair.x
    split = Split((x > 0).byte().repeat(4, 1, 1, 1), given=(y.repeat(4),))
    data = Dataset("toy", split, split, split)
    estimator = Enumerate() if name == "semi-supervised" else None
    objective = Elbo(2, estimator) if estimator else Elbo(2)
    svi = SVI(pair.model, pair.guide, lambda p: torch.optim.Adam(p, 0.01), objective)
    trace = fit(svi, data, epochs=15, batch_size=12, show_progress=False)
    valid = [row.elbo for row in trace.split("valid")]
    assert valid[-1] > valid[0]
    found = evaluate(pair.model, pair.guide, split, particles=5, show_progress=False)
    assert found.log_px.mean() >= found.elbo.mean()
