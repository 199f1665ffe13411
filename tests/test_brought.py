"""What Pyro's users bring besides: held sites, masks of data, guides that observe, no plates."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from inference import SVI, Dataset, Elbo, Split, evaluate, fit, log_weights
from inference.check import check
from inference.evaluation.annealing import ais
from inference.evaluation.validation import Validator

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
Y = (torch.arange(8) % 2).float()
Programs = tuple[Callable[..., Any], Callable[..., Any]]


def made(observe: Callable[..., Any], guide_too: Callable[..., Any] = lambda *_: None) -> Programs:
    """A code of two numbers, what the model observes of it, and what the guide has besides."""
    encoder, decoder = nn.Linear(4, 4), nn.Linear(2, 4)

    def model(x: Tensor, *given: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            observe(x, z, dist.Normal(decoder(z), 1.0).to_event(1), *given)

    def guide(x: Tensor, *given: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
            guide_too(x, *given)

    return model, guide


def same_loss(model: Any, guide: Any, batch: Any) -> float:
    """Return Pyro's loss per datum, once ours is seen to be the same."""
    given = batch if isinstance(batch, tuple) else (batch,)
    pyro.set_rng_seed(1)
    with pyro.validation_enabled(False):
        theirs = Trace_ELBO().loss(model, guide, *given) / len(given[0])
    pyro.set_rng_seed(1)
    assert float(Elbo()(model, guide, batch).loss.detach()) == pytest.approx(theirs, rel=1e-5)
    return theirs


def data(*stored: Tensor) -> Dataset:
    split = Split(stored[0], given=stored[1:])
    return Dataset("eight", split, split, split)


def test_a_site_held_at_a_value_is_data_that_all_share() -> None:
    head = nn.Linear(4, 4)

    def inner(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        pyro.module("head", head)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = head(torch.cat([z, z], -1))
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    model: Any = poutine.condition(inner, data={"scale": torch.tensor(1.3)})
    _, guide = made(lambda *_: None)
    assert check(model, guide, X) == []
    same_loss(model, guide, X)
    found = evaluate(model, guide, Split(X), data_size=80, particles=2, show_progress=False)
    free = evaluate(model, guide, Split(X), data_size=40, particles=2, show_progress=False)
    density = float(dist.Gamma(2.0, 2.0).log_prob(torch.tensor(1.3)))
    assert float((free.elbo - found.elbo).mean()) == pytest.approx(density / 80, abs=1e-5)


def test_data_that_a_mask_leaves_out_may_be_drawn_by_the_guide() -> None:
    def observe(x: Tensor, z: Tensor, p: Any) -> None:
        there: Any = x[:, 0] > 0
        pyro.sample("x", p, obs=x, obs_mask=there)

    def drawn(x: Tensor) -> None:
        pyro.sample("x_unobserved", dist.Normal(0 * x, 1.0).to_event(1))

    model, guide = made(observe, drawn)
    found = check(model, guide, X)
    assert [each for each in found if "Nothing in the model depends" in each] == []
    same_loss(model, guide, X)


def observing() -> Programs:
    head = nn.Linear(4, 1)

    def observe(x: Tensor, z: Tensor, p: Any, y: Tensor) -> None:
        pyro.sample("x", p, obs=x)
        pyro.sample("y", dist.Bernoulli(logits=z.sum(-1)), obs=y)

    def in_guide(x: Tensor, y: Tensor) -> None:
        pyro.module("head", head)
        kind: Any = {"is_auxiliary": True}
        pyro.sample("y", dist.Bernoulli(logits=head(x).squeeze(-1)), obs=y, infer=kind)

    return made(observe, in_guide)


@pytest.mark.parametrize("particles", [1, 3])
def test_what_a_guide_observes_is_in_the_loss_alone(particles: int) -> None:
    model, guide = observing()
    (note,) = check(model, guide, (X, Y))
    assert note.kind == "note"
    assert note.startswith("Site 'y' is observed in the guide: the loss has its log q as Pyro's")
    theirs = same_loss(model, guide, (X, Y))
    pyro.set_rng_seed(1)
    found = log_weights(model, guide, (X, Y), particles)
    draw = found.draws["z"]
    with poutine.condition(data={"z": draw}), pyro.plate("particles", particles, dim=-2):
        joint = poutine.trace(model).get_trace(X, Y).log_prob_sum()
    q = found.sites.guide["z"].distribution.log_prob(draw).sum()
    torch.testing.assert_close(found.total.sum(), joint - q, rtol=1e-5, atol=1e-4)
    for objective in (Elbo(), Trace_ELBO()):
        svi = SVI(model, guide, objective=objective)
        pyro.set_rng_seed(1)
        estimate = svi.evaluate((X, Y))
        assert float(estimate.loss) == pytest.approx(theirs, rel=1e-5)
        parts = estimate.reconstruction - estimate.kl
        torch.testing.assert_close(estimate.bound, parts)
    trace = fit(SVI(model, guide), data(X, Y), epochs=1, batch_size=4, show_progress=False)
    best: Any = trace.best()
    assert Validator(model, guide, data(X, Y).valid, data_size=8)().elbo == best.elbo


def in_no_plate() -> Programs:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 4), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(2), obs=x)

    def guide(x: Tensor) -> None:
        gain = pyro.param("gain", torch.tensor(0.3))
        pyro.sample("z", dist.Normal(gain * x, 1.0).to_event(2))

    return model, guide


def in_a_loop() -> Programs:
    def model(x: Tensor) -> None:
        loop: Any = pyro.plate("data", len(x))
        for i in loop:
            z = pyro.sample(f"z{i}", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0).to_event(1), obs=x[i])

    def guide(x: Tensor) -> None:
        gain = pyro.param("gain", torch.tensor(0.3))
        loop: Any = pyro.plate("data", len(x))
        for i in loop:
            pyro.sample(f"z{i}", dist.Normal(gain * x[i], 1.0).to_event(1))

    return model, guide


@pytest.mark.parametrize("make", [in_no_plate, in_a_loop])
@pytest.mark.filterwarnings("ignore")
def test_data_in_no_plate_are_refused_where_their_part_is_not_known(
    make: Callable[[], Programs],
) -> None:
    """A step of one's own has Pyro's loss; N data, or K particles, would divide it wrongly."""
    model, guide = make()
    (fault,) = check(model, guide, X)
    assert fault.startswith("No data plate: the observed site 'x")
    same_loss(model, guide, X)
    SVI(model, guide).step(X)
    calls: list[Callable[[], Any]] = [
        lambda: fit(SVI(model, guide), data(X), epochs=1, batch_size=4, show_progress=False),
        lambda: fit(
            SVI(model, guide, objective=Trace_ELBO()),
            data(X),
            epochs=1,
            batch_size=4,
            show_progress=False,
        ),
        lambda: SVI(model, guide, objective=Elbo(3)).step(X),
        lambda: SVI(model, guide, data_size=80).step(X),
        lambda: evaluate(model, guide, Split(X), data_size=8, show_progress=False),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"No data plate: the observed site 'x.*Wrap the sites"
        ):
            call()


def test_a_pair_that_picks_its_data_itself_is_told_what_to_do() -> None:
    every = torch.randn(40, 4)

    def picking(x: Tensor) -> None:
        gain = pyro.param("gain", torch.tensor(0.3))
        with pyro.plate("data", 40, subsample_size=len(x)):
            mine = pyro.subsample(every, event_dim=1)
            pyro.sample("z", dist.Normal(gain * mine[:, :2], 1.0).to_event(1))

    def whole(x: Tensor) -> None:
        with pyro.plate("data", 40, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z], -1), 1.0).to_event(1), obs=x)

    fault = check(whole, picking, X)[0]
    assert fault.startswith("Plate 'data' picks other data in each call, and the guide uses which")


def test_another_loss_of_pyros_is_chosen_by_itself_and_told_by_the_parts() -> None:
    """CEVAE's ELBO has a classifier's loss besides, so that it bounds no log p(x)."""
    elbo = pytest.importorskip("pyro.contrib.cevae").TraceCausalEffect_ELBO()
    model, guide = observing()
    svi = SVI(model, guide, objective=elbo)
    pyro.set_rng_seed(1)
    estimate = svi.evaluate((X, Y))
    pyro.set_rng_seed(1)
    assert float(estimate.loss) == pytest.approx(elbo.loss(model, guide, X, Y) / 8, rel=1e-5)
    torch.testing.assert_close(estimate.bound, estimate.reconstruction - estimate.kl)
    trace = fit(svi, data(X, Y), epochs=1, batch_size=4, show_progress=False)
    best: Any = trace.best()
    assert best.objective is not None
    assert best.objective < best.elbo


@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_guide_observes_anneals_as_what_it_does_not(seed: int) -> None:
    """AIS from a guide that observes has the bound of one that doesn't."""
    model, guide = observing()

    def silent(x: Tensor, y: Tensor) -> None:
        poutine.block(guide, hide=["y"])(x, y)

    found = []
    for start in (guide, silent):
        pyro.set_rng_seed(2)
        found.append(ais(model, start, (X, Y), chains=4, distributions=5, seed=seed).log_px)
    torch.testing.assert_close(found[0], found[1])
