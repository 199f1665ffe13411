"""Discrete sites that only the model has: summed out where they are marked, refused elsewhere."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import SVI, Elbo, Iwae, evaluate, fit, log_weights
from inference.check import check
from inference.data import AsIs, Dataset, Split
from inference.evaluation.validation import Validator

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
PARALLEL: Any = {"enumerate": "parallel"}


class Mixture(PyroModule):
    """p(c) p(z | c) p(x | z, c) with c of three values, and q(z | x)."""

    def __init__(self) -> None:
        super().__init__()
        pyro.set_rng_seed(1)
        self.weights = nn.Parameter(torch.randn(3))
        self.centres = nn.Parameter(torch.randn(3, 2))
        self.shifts = nn.Parameter(torch.randn(3, 3))
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.weights), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(self.centres[c], 1.0).to_event(1))
            loc = self.decoder(z) + self.shifts[c]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def by_hand(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) and log p(z), (..., B), the sum over c written out."""
        log_c = self.weights.log_softmax(0)
        prior = torch.stack(
            [log_c[c] + dist.Normal(self.centres[c], 1.0).log_prob(z).sum(-1) for c in range(3)]
        )
        likelihood = torch.stack(
            [
                dist.Normal(self.decoder(z) + self.shifts[c], 1.0).log_prob(x).sum(-1)
                for c in range(3)
            ]
        )
        return (prior + likelihood).logsumexp(0), prior.logsumexp(0)


class TwoSites(Mixture):
    """c by ``config_enumerate``, and a Bernoulli that depends on it."""

    @config_enumerate
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.weights))
            b = pyro.sample("b", dist.Bernoulli(logits=self.shifts[c, 0]))
            z = pyro.sample("z", dist.Normal(self.centres[c], 1.0).to_event(1))
            loc = self.decoder(z) + b.unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("particles", [1, 4])
def test_density_is_the_sum(particles: int) -> None:
    pair = Mixture()
    weights = log_weights(pair.model, pair.guide, X, particles)
    joint, prior = pair.by_hand(X, weights.draws["z"].reshape(particles, len(X), 2))
    torch.testing.assert_close(weights.reconstruction, joint - prior)
    torch.testing.assert_close(weights.kl, weights.guide["z"] - prior)
    assert weights.summed == ("c",)


@pytest.mark.parametrize("make", [Mixture, TwoSites])
def test_training_validation_and_evaluation_are_pyros(make: Callable[[], Mixture]) -> None:
    """The same seed, the same loss and gradients as TraceEnum_ELBO, by it and by Elbo."""
    found, gradients = [], []
    for objective in (TraceEnum_ELBO(max_plate_nesting=1), None):
        pair = make()
        assert check(pair.model, pair.guide, X) == []
        svi = SVI(pair.model, pair.guide, lambda p: torch.optim.SGD(p, 1.0), objective)
        svi.prepare(X)
        before = pair.encoder.weight.detach().clone()
        pyro.set_rng_seed(3)
        estimate = svi.step(X)
        torch.testing.assert_close(estimate.bound, estimate.reconstruction - estimate.kl)
        found.append(estimate.bound)
        gradients.append(before - pair.encoder.weight.detach())
    pair = make()
    pyro.set_rng_seed(3)
    theirs = -TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, X) / len(X)
    torch.testing.assert_close(torch.stack(found), torch.full((2,), theirs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1])
    split = Split(X, AsIs())
    valid = Validator(pair.model, pair.guide, split)()
    with pyro.validation_enabled(False):
        pyro.set_rng_seed(0)
        theirs = -TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, X) / len(X)
    assert valid.elbo == pytest.approx(theirs, abs=1e-4)
    assert valid.elbo == pytest.approx(valid.reconstruction - valid.kl, abs=1e-6)
    many = SVI(pair.model, pair.guide, objective=TraceEnum_ELBO(max_plate_nesting=1))
    assert torch.isfinite(many.evaluate(X).bound)


def test_bound_is_exact_where_the_guide_is_the_posterior() -> None:
    """Without z in the likelihood and the prior, every weight is log p(x) itself."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.8])), infer=PARALLEL)
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 2.0])[c], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = X[:, 0]
    parts = torch.stack([dist.Normal(loc, 1.0).log_prob(x) for loc in (-1.0, 2.0)])
    exact = (parts + torch.tensor([[0.2], [0.8]]).log()).logsumexp(0)
    result = evaluate(model, guide, Split(x, AsIs()), particles=7, show_progress=False)
    torch.testing.assert_close(result.log_px, exact.double())
    assert Iwae(particles=3)(model, guide, x).bound == pytest.approx(float(exact.mean()), abs=1e-5)


def test_it_is_fitted_and_captured() -> None:
    pair = Mixture()
    split = Split(X, AsIs())
    data = Dataset("twelve", split, split, split)
    trace = fit(
        SVI(pair.model, pair.guide, compile="graph"),
        data,
        epochs=3,
        batch_size=4,
        show_progress=False,
    )
    assert all(torch.isfinite(torch.tensor(row.elbo)) for row in trace.rows)


def test_what_is_not_marked_is_refused() -> None:
    class Unmarked(Mixture):
        def model(self, x: Tensor) -> None:
            with pyro.poutine.infer_config(config_fn=lambda _: cast(Any, {"enumerate": None})):
                super().model(x)

    pair = Unmarked()
    for call in (
        lambda: log_weights(pair.model, pair.guide, X),
        lambda: SVI(pair.model, pair.guide).step(X),
    ):
        with pytest.raises(
            ValueError, match="Site 'c' is latent in the model.*summed out.*'enumerate'"
        ):
            call()
    assert "mark it with infer" in check(pair.model, pair.guide, X)[0]


def test_what_can_not_be_summed_is_refused() -> None:
    def sites(inner: Any, count: int = 1) -> Callable[[Tensor], None]:
        def model(x: Tensor) -> None:
            if inner == "outside":
                pyro.sample("c", dist.Bernoulli(0.5), infer=PARALLEL)
            with pyro.plate("data", len(x)):
                for i in range(count if inner == "many" else 0):
                    pyro.sample(f"c{i}", dist.Bernoulli(0.5), infer=PARALLEL)
                if inner in ("leak", "some", "crossing"):
                    words = pyro.plate("words", 4, 4 - (inner == "some"), dim=-2)
                    notes, shift = pyro.plate("notes", 2, dim=-3), torch.zeros(())
                    with words:
                        c = pyro.sample("c", dist.Bernoulli(0.5), infer=PARALLEL)
                    if inner == "leak":
                        pyro.factor("term", c.sum(0))
                    if inner == "crossing":
                        with notes:
                            d = pyro.sample("d", dist.Bernoulli(0.5), infer=PARALLEL)
                        with notes, words:
                            pyro.sample("y", dist.Normal(c + d, 1.0), obs=shift)
                if inner == "infinite":
                    pyro.sample("c", dist.Poisson(2.0), infer=PARALLEL)
                pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=x)

        return model

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    for inner, words in (
        ("outside", "another plate than the data's"),
        ("leak", "Site 'term' depends on 'c', which only the model has, and is not in the same pl"),
        ("crossing", "Site 'y' depends on 'c' and 'd', which only the model has"),
        ("some", "for each member of plate 'words', which takes some of its members"),
        ("infinite", "Poisson has no finite number of values"),
        ("many", "have 1,024 combinations of values; at most 1,000"),
    ):
        with pytest.raises(ValueError, match=words):
            log_weights(sites(inner, 10), guide, X)
    pair = Mixture()
    with pytest.raises(ValueError, match="'c' is summed out.*analytic_kl"):
        Elbo(analytic_kl=True)(pair.model, pair.guide, X)
    with pytest.raises(ValueError, match="'c' is summed out, and poutine.scale"):
        log_weights(pyro.poutine.scale(pair.model, 0.5), pair.guide, X)


def test_pyros_trace_elbo_draws_it() -> None:
    """Trace_ELBO takes no notice of the mark, as in Pyro, at the same seed."""
    pair = Mixture()
    pyro.set_rng_seed(5)
    mine = SVI(pair.model, pair.guide, objective=Trace_ELBO()).evaluate(X)
    pyro.set_rng_seed(5)
    with pyro.validation_enabled(False):
        theirs = Trace_ELBO().loss(pair.model, pair.guide, X) / len(X)
    assert float(mine.loss) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("document", [False, True])
def test_sites_in_inner_plates_are_summed_member_by_member(document: bool, masked: bool) -> None:
    """log p(x) = log sum_d p(d) prod_w sum_c p(c | d) p(x_w | c), as TraceEnum_ELBO has it."""
    x = torch.randn(5, 4)
    present = torch.arange(4) < torch.tensor([4, 1, 0, 2, 4]).unsqueeze(-1)
    table = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    kinds = torch.tensor([0.3, 0.7])
    here = present if masked else torch.ones_like(present)
    batch = x, here

    def model(x: Tensor, here: Tensor) -> None:
        with pyro.plate("documents", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            d: Any = 0
            if document:
                d = pyro.sample("d", dist.Categorical(kinds), infer=PARALLEL)
            with pyro.plate("words", 4, dim=-2), pyro.poutine.mask(mask=cast(Any, here.T)):
                c = pyro.sample("c", dist.Categorical(table[d]), infer=PARALLEL)
                pyro.sample("x", dist.Normal(c.float(), 1.0), obs=x.T)

    def guide(x: Tensor, here: Tensor) -> None:
        with pyro.plate("documents", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    parts = dist.Normal(torch.arange(3.0), 1.0).log_prob(x.unsqueeze(-1))  # datum, word, c
    words = (table.log()[:, None, None] + parts).logsumexp(-1)  # d, datum, word
    each = torch.where(here, words, 0.0).sum(-1)
    exact = (kinds.log().unsqueeze(-1) + each).logsumexp(0) if document else each[0]
    for particles in (1, 3):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The pair cannot carry")
            found = log_weights(model, guide, batch, particles).total
        torch.testing.assert_close(found, exact.expand(particles, 5))
    theirs = TraceEnum_ELBO(max_plate_nesting=2).loss(model, guide, *batch) / len(x)
    assert theirs == pytest.approx(-float(exact.mean()), abs=1e-5)
    assert [each for each in check(model, guide, batch) if "no parameter" not in each] == []


def test_masked_site_counts_once() -> None:
    """All values of a site that is masked count once together, not once each."""
    mask: Any = torch.tensor([True, False] * 6)

    def model(x: Tensor, how: str) -> None:
        inside = pyro.poutine.mask(mask=mask if how == "handler" else True)
        with pyro.plate("data", len(x)), inside:
            kinds: Any = dist.Categorical(torch.ones(3))
            kinds = kinds.mask(mask) if how == "method" else kinds
            c = pyro.sample("c", kinds, infer=PARALLEL)
            pyro.sample("x", dist.Normal(c.float(), 1.0).mask(mask), obs=x)

    def guide(x: Tensor) -> None:
        pass

    x = X[:, 0]
    parts = dist.Normal(torch.arange(3.0), 1.0).log_prob(x.unsqueeze(-1))
    exact = torch.where(mask, parts.logsumexp(-1) - torch.tensor(3.0).log(), 0.0)
    for how in ("handler", "method"):
        found = log_weights(partial(model, how=how), guide, x).total
        torch.testing.assert_close(found, exact.unsqueeze(0))


def test_a_pair_that_only_pyro_sums_is_fitted_and_chosen_by_pyros_bound() -> None:
    """Eleven binary sites have too many combinations for log weights, and not for Pyro."""

    class Chain(Mixture):
        @config_enumerate
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))
                for t in range(11):
                    c = pyro.sample(f"c{t}", dist.Bernoulli(0.5))
                    pyro.sample(f"x{t}", dist.Normal(c + self.weights[0], 1.0), obs=x[:, 0])

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.shifts[0, 0], 1.0))

    pair, split = Chain(), Split(X, AsIs())
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(pair.model, pair.guide, objective=objective)
    data = Dataset("twelve", split, split, split)
    trace = fit(svi, data, epochs=2, batch_size=4, show_progress=False)
    row = trace.rows[-1]
    assert row.kl != row.kl
    pyro.set_rng_seed(0)
    svi.load_weights(trace.weights)
    best: Any = trace.best()
    assert best.elbo == pytest.approx(-float(svi.evaluate(X).loss), abs=0.5)
