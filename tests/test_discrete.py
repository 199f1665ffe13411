"""Discrete codes: masses that sum to one, draws that follow them, pairs from the command line."""

import itertools
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro.nn import PyroModule
from torch import Tensor, nn

import guides
import models
from inference import (
    Elbo,
    Enumerate,
    GumbelSoftmax,
    StraightThrough,
    check,
    load_run,
    log_weights,
)
from inference.objectives.baselines import OfInput
from inference.objectives.discrete_sites import Logits
from inference.objectives.relaxed import Concrete
from scripts import _commands as commands

from .pairs import DISCRETE, EVENT, LATENT, Pair, bits, vae
from .test_objectives import BinaryGuide, BinaryModel, ChoiceGuide, ChoiceModel, enumeration

pytestmark = pytest.mark.usefixtures("in_doubles")


def make(name: str) -> Pair:
    """Make a pair, its parameters moved from where they start."""
    pair = vae(models.Bernoulli, bits(), *DISCRETE[name])
    with torch.no_grad():
        for parameter in (*pair.model.parameters(), *pair.guide.parameters()):
            parameter += 0.3 * torch.randn_like(parameter)
    return pair


def values_of(event: torch.Size) -> Tensor:
    """Return every value of Z bits (2^Z, Z), or of Z codes (C^Z, Z, C)."""
    each = torch.tensor([0.0, 1.0]) if len(event) == 1 else torch.eye(event[1])
    return torch.stack([torch.stack(v) for v in itertools.product(each, repeat=event[0])])


def of_one(pair: Pair) -> Any:
    """Return the posterior of the first datum, batch_shape ()."""
    q = pair.guide.posterior(pair.x[:1])
    return type(q.base_dist)(logits=q.base_dist.logits[0]).to_event(1)


@pytest.mark.parametrize("name", DISCRETE)
def test_masses_sum_to_one_and_draws_follow_them(name: str) -> None:
    """Of the prior and of one posterior: |z| < 4.5 for the frequency of each of 4 or 9 values."""
    pyro.set_rng_seed(1)
    pair = make(name)
    with torch.no_grad():
        for fn in (pair.model.prior(), of_one(pair)):
            assert fn.batch_shape == ()
            assert fn.event_shape[0] == LATENT
            values = values_of(fn.event_shape)
            mass = fn.log_prob(values).exp()
            assert mass.sum().item() == pytest.approx(1, abs=1e-12)
            drawn = fn.sample(torch.Size([20_000])).flatten(1)
            same = (drawn[:, None] == values.flatten(1)).all(-1).double()
            assert (same.sum(1) == 1).all()
            error = (mass * (1 - mass) / 20_000).sqrt()
            assert ((same.mean(0) - mass) / error).abs().max() < 4.5


@pytest.mark.parametrize("name", DISCRETE)
def test_elbo_is_that_of_enumeration(name: str) -> None:
    """Mean of 40,000 draws against the sum over all values, at |z| < 4.5."""
    pyro.set_rng_seed(2)
    pair = make(name)
    with torch.no_grad():
        q, p = pair.guide.posterior(pair.x), pair.model.prior()
        values = values_of(p.event_shape).unsqueeze(1).expand(-1, len(pair.x), *p.event_shape)
        log_q = q.log_prob(values)
        p_x = pair.model.likelihood(pair.model.decoder(values.flatten(2)))
        log_w = p.log_prob(values) + p_x.log_prob(pair.x) - log_q
        exact = (log_q.exp() * log_w).sum(0)
        found = log_weights(pair.model, pair.guide, pair.x, 40_000).total
    assert ((found.mean(0) - exact) / (found.std(0) / 200)).abs().max() < 4.5
    if name not in ("vamp of codes", "following bits", "following codes"):
        closed = Elbo(1, analytic_kl=True)(pair.model, pair.guide, pair.x)
        assert closed.kl.item() == pytest.approx(
            (log_q.exp() * (log_q - p.log_prob(values))).sum(0).mean().item(), rel=1e-9
        )


class Halves:
    """A prior and a posterior of one latent site."""

    def __init__(self, p: Any, q: Any) -> None:
        self.p, self.q = p, q

    def model(self, x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.p)
            logits = z.reshape(*z.shape[: -self.p.event_dim or None], -1).sum(-1) + shift
            pyro.sample("x", dist.Bernoulli(logits=logits), obs=x)

    def guide(self, x: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(logits))


MIXED: list[tuple[Any, Any]] = [
    (dist.Normal(torch.zeros(3), 1.0).to_event(1), lambda v: dist.Bernoulli(logits=v).to_event(1)),
    (dist.Normal(torch.zeros(3), 1.0).to_event(1), lambda v: dist.OneHotCategorical(logits=v)),
    (dist.Laplace(torch.zeros(3), 1.0).to_event(1), lambda v: dist.Poisson(v.exp()).to_event(1)),
    (dist.Gamma(torch.ones(3), 1.0).to_event(1), lambda v: dist.Geometric(logits=v).to_event(1)),
    (dist.Dirichlet(torch.ones(3)), lambda v: dist.OneHotCategorical(logits=v)),
    (dist.Uniform(torch.zeros(3), 1.0).to_event(1), lambda v: dist.Bernoulli(logits=v).to_event(1)),
]


@pytest.mark.parametrize(("p", "q"), MIXED)
def test_a_density_and_a_probability_do_not_compare(p: Any, q: Any) -> None:
    pyro.clear_param_store()
    pair = Halves(p, q)
    (found,) = check(pair.model, pair.guide, torch.tensor([0.0, 1.0, 1.0]))[:1]
    assert found.kind == "fault"
    assert "has a density, and" in found


REFUSED: list[tuple[list[str], str]] = [
    (["--guide", "Bernoulli"], "Normal in the model has a density, and Bits in the guide a"),
    (["--prior", "StandardBernoulli"], "a probability, and Normal in the guide a density"),
    (["--guide", "Categorical"], "A draw of StandardNormal has 1 numbers for a coordinate"),
    (["--prior", "LearnedCategorical"], "one of DiagonalNormal 1: take a prior and a family"),
    (
        ["--prior", "StandardCategorical", "--guide", "Categorical", "--guide.values", "4"],
        "with the same --prior.values and --guide.values",
    ),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_halves_that_do_not_match_are_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_default_dtype(torch.float32)
    with pytest.raises(SystemExit) as ended:
        commands.main(["check", *words, "--latent_dim", "3"])
    assert said in f"{ended.value.code} {capsys.readouterr().err}"


def test_codes_are_trained_and_evaluated_from_the_command_line(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    run = str(tmp_path / "run")
    commands.main(
        ["train", "--prior", "LearnedCategorical", "--prior.values", "3", "--guide", "Categorical",
         "--guide.values", "3", "--latent_dim", "4", "--estimator", "Vimco", "--objective", "Iwae",
         "--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--epochs", "2", "--run", run]
    )  # fmt: skip
    commands.main(["evaluate", run, "--particles", "5"])
    opened = load_run(run)
    x = opened.data.test.stored[:3]
    assert opened.encode(x, particles=2).shape == (2, 3, 4, 3)
    assert opened.decode(opened.encode(x, particles=1)[0]).shape[0] == 3


@pytest.mark.parametrize(
    "make",
    [lambda: models.StandardCategorical(2, 1), lambda: models.LearnedCategorical(2, 0),
     lambda: guides.Categorical(2, 1)],
)  # fmt: skip
def test_a_code_has_a_choice(make: Any) -> None:
    with pytest.raises(ValueError, match="at least 2 values of each code; got"):
        make()


@pytest.mark.parametrize(
    ("family", "size", "said"),
    [
        (guides.Bernoulli, 13, r"13 factors of 2 values have 2\^13 together"),
        (guides.Categorical, 4, r"4 factors of 10 values have 10\^4 together"),
    ],
)
def test_enumeration_has_an_end(family: Any, size: int, said: str) -> None:
    prior = {guides.Bernoulli: models.StandardBernoulli}.get(family, models.StandardCategorical)
    q = family(size)
    guide = guides.Amortized(guides.MLP(EVENT, q.parameter_dim, [8]), q)
    decoder = models.MLP(size * q.numbers, EVENT, [8])
    model = models.VAE(prior(size), decoder, models.Bernoulli(EVENT))
    with pytest.raises(ValueError, match=said):
        Elbo(1, Enumerate())(model, guide, bits())


@pytest.mark.parametrize("name", DISCRETE)
def test_enumeration_has_no_noise(name: str) -> None:
    """Value and gradient of the sum over all values, to the last digits."""
    pair = make(name)
    q, p = pair.guide.posterior(pair.x), pair.model.prior()
    values = values_of(p.event_shape).unsqueeze(1).expand(-1, len(pair.x), *p.event_shape)
    p_x = pair.model.likelihood(pair.model.decoder(values.flatten(2)))
    log_q = q.log_prob(values)
    log_w = p.log_prob(values) + p_x.log_prob(pair.x) - log_q
    exact = (log_q.exp() * log_w).sum(0).mean()
    found = Elbo(2, Enumerate())(pair.model, pair.guide, pair.x)
    torch.testing.assert_close(found.bound, exact.detach())
    named = [*pair.model.parameters(), *pair.guide.parameters()]
    for a, b in zip(
        torch.autograd.grad(-found.loss, named), torch.autograd.grad(exact, named), strict=True
    ):
        torch.testing.assert_close(a, b)


CONCRETE = [
    (True, 0.1, torch.float64), (True, 1.0, torch.float64), (True, 0.5, torch.float32),
    (False, 0.1, torch.float64), (False, 1.0, torch.float64), (False, 0.5, torch.float32),
]  # fmt: skip


@pytest.mark.parametrize(("of_bits", "temperature", "dtype"), CONCRETE)
def test_concrete_has_the_density_of_torch(
    of_bits: bool, temperature: float, dtype: torch.dtype
) -> None:
    logits = torch.randn(50, 4, dtype=dtype)
    logits = logits if of_bits else logits.log_softmax(-1)
    mine: Any = Concrete(Logits(logits, of_bits), temperature)
    kind: Any = td.RelaxedBernoulli if of_bits else td.RelaxedOneHotCategorical
    theirs = kind(torch.tensor(temperature, dtype=dtype), logits=logits)
    y = mine.rsample()
    assert mine.support.check(y).all()
    torch.testing.assert_close(mine.log_prob(y), theirs.log_prob(y), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("of_bits", [True, False])
def test_concrete_is_finite_where_its_draws_leave_the_numbers(of_bits: bool) -> None:
    logits = 200 * torch.randn(50, 4, dtype=torch.float32)
    logits = (logits if of_bits else logits.log_softmax(-1)).requires_grad_()
    q, p = (Concrete(Logits(v, of_bits), 0.05) for v in (logits, torch.zeros_like(logits)))
    y = q.rsample()
    ratio = (p.log_prob(y) - q.log_prob(y)).sum()
    (slope,) = torch.autograd.grad(ratio, logits)
    assert ratio.isfinite()
    assert slope.isfinite().all()


BIASED = [
    (Elbo(1, GumbelSoftmax(1.0), analytic_kl=True), 0.02, 0.2),
    (Elbo(1, GumbelSoftmax(0.1), analytic_kl=True), 0.0, 0.02),
    (Elbo(1, GumbelSoftmax(0.5)), 0.3, 4.0),
    (Elbo(1, StraightThrough(0.5), analytic_kl=True), 0.0, 0.1),
]


@pytest.mark.parametrize(("objective", "least", "most"), BIASED, ids=str)
@pytest.mark.parametrize("kind", ["bits", "choices"])
def test_the_bias_of_relaxed_draws_is_known(
    objective: Any, least: float, most: float, kind: str
) -> None:
    """Its norm over that of the guide's gradient, 20,000 draws; and what is reported has none.

    Found: 0.07, 0.01, 0.7 and 0.04 for bits; 0.06, 0.01, 2.9 and 0.04 for choices.
    """
    pyro.set_rng_seed(1)
    model: Any = BinaryModel() if kind == "bits" else ChoiceModel()
    guide: Any = BinaryGuide() if kind == "bits" else ChoiceGuide()
    x = torch.tensor([[0.4, -0.9]])
    exact = enumeration(Elbo(1), model, guide, x)
    (slope,) = torch.autograd.grad(exact, guide.logits)
    estimate = objective(model, guide, x.expand(20_000, 2))
    (found,) = torch.autograd.grad(-estimate.loss, guide.logits)
    bias = ((found - slope).norm() / slope.norm()).item()
    assert least <= bias <= most
    assert estimate.bound.item() == pytest.approx(exact.item(), abs=0.05)
    assert objective.value(model, guide, x).isfinite()


def test_a_diverged_guide_is_told_in_words() -> None:
    logits = torch.tensor([float("nan"), 0.0, 50.0])
    with pyro.validation_enabled(False):  # as in a step
        drawn = guides.Bernoulli(3)(logits).sample(torch.Size([50]))
    assert drawn[:, ::2].mean(0).tolist() == [0, 1]


def test_an_input_dependent_baseline_learns_the_reward() -> None:
    """Of data whose rewards are -40 and -60 it leaves less than a tenth of the running mean's."""
    pyro.set_rng_seed(3)
    baseline, x = OfInput(), torch.bernoulli(torch.full((64, 8), 0.5))
    reward = -50 + 20 * (x[:, 0] - 0.5) + 0.1 * torch.randn(2, 64)
    for _ in range(1000):
        baseline(reward, x)
    rest = reward - baseline(reward, x)
    assert rest.square().mean() < 0.1 * reward.var()
    with torch.no_grad():  # an evaluation leaves it as it is
        before = [b.clone() for b in baseline.buffers()]
        baseline(100 + reward, x)
    assert all(map(torch.equal, before, baseline.buffers()))


@pytest.mark.parametrize("size", [(), (3,), (1, 28, 28)])
def test_an_input_dependent_baseline_takes_any_x(size: tuple[int, ...]) -> None:
    baseline = OfInput()
    for _ in range(50):
        x = 1e6 * torch.rand(4, *size)
        assert baseline(-1e5 + torch.randn(1, 4), x).isfinite().all()


def test_a_relaxed_bound_is_a_column_of_its_own(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    run = tmp_path / "run"
    commands.main(
        ["train", "--prior", "StandardBernoulli", "--guide", "Bernoulli", "--latent_dim", "3",
         "--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--epochs", "2", "--run", str(run),
         "--estimator", "GumbelSoftmax"]
    )  # fmt: skip
    rows = load_run(run).trace.rows
    valid = [row for row in rows if row.split == "valid"]
    assert all(row.relaxed is not None and row.relaxed != row.elbo for row in valid)
    assert all(row.objective is None for row in valid)
    assert all(row.relaxed is None for row in rows if row.split == "train")


class Through(PyroModule):
    """Choices or bits whose draws are hard forwards and soft backwards."""

    def __init__(self, law: Any, size: int) -> None:
        super().__init__()
        self.law = law
        self.net = nn.Linear(12, size)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.law(self.net(x.flatten(1))))


class Below(PyroModule):
    """The model of those draws."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior, self.net = prior, nn.Linear(prior.event_shape.numel(), 12)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior)
            logits = 2 * self.net(z.flatten(-len(self.prior.event_shape)))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))


def relaxed(kind: Any, **keywords: Any) -> Any:
    return lambda v: kind(torch.tensor(0.3), logits=v, **keywords)


CHOICE = dist.OneHotCategorical(logits=torch.tensor([0.5, -0.2, 0.1]))
THROUGH: dict[str, tuple[Any, Any, int]] = {
    "choice": (relaxed(dist.RelaxedOneHotCategoricalStraightThrough), CHOICE, 3),
    "choice of torch": (lambda v: dist.OneHotCategoricalStraightThrough(logits=v), CHOICE, 3),
    "choices": (
        lambda v: relaxed(dist.RelaxedOneHotCategoricalStraightThrough)(
            v.unflatten(-1, (2, 3))
        ).to_event(1),
        dist.OneHotCategorical(logits=torch.linspace(-1, 1, 6).view(2, 3)).to_event(1),
        6,
    ),
    "bits": (
        lambda v: relaxed(dist.RelaxedBernoulliStraightThrough)(v).to_event(1),
        dist.Bernoulli(logits=torch.tensor([0.3, -0.4])).to_event(1),
        2,
    ),
}


@pytest.mark.parametrize("name", THROUGH)
def test_straight_through_draws_have_the_bound_of_the_discrete_model(name: str) -> None:
    """log p(x) by enumeration is what 4,000 weights say, within 5 of their standard errors."""
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(5)
    law, prior, size = THROUGH[name]
    model, guide, x = Below(prior), Through(law, size), bits()
    assert check(model, guide, x) == []
    with torch.no_grad():
        values = values_of(torch.Size((1, size)) if size == 3 else prior.event_shape)
        values = values[:, 0] if size == 3 else values
        p_x = dist.Bernoulli(logits=2 * model.net(values.flatten(1))).to_event(1)
        joint = prior.log_prob(values) + p_x.log_prob(x.flatten(1).unsqueeze(1))  # (B, S)
        weights = log_weights(model, guide, x, 4000).total
        bound = weights.logsumexp(0) - math.log(4000)
        relative = (weights - weights.amax(0)).exp()
        error = relative.std(0) / relative.mean(0) / math.sqrt(4000)
    assert (((bound - joint.logsumexp(1)) / error).abs() < 5).all()
    assert error.max() < 0.1
    estimate = Elbo(8)(model, guide, x)
    slopes = torch.autograd.grad(estimate.loss, list(guide.parameters()))
    assert all(slope.ne(0).any() for slope in slopes)
    closed = Elbo(8, analytic_kl=True)(model, guide, x)
    assert closed.bound.isfinite()
