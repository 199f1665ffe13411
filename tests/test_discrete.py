"""Discrete codes: masses that sum to one, draws that follow them, pairs from the command line."""

import itertools
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import guides
import models
from inference import Elbo, check, load_run, log_weights
from scripts import _commands as commands

from .pairs import DISCRETE, LATENT, Pair, bits, vae

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
    if name != "vamp of codes":
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
    (["--guide", "Bernoulli"], "Normal in the model has a density, and Bernoulli in the guide a"),
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
