"""Choosing a model: by the ELBO, by what is optimised, or not at all."""

from typing import Any, cast

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from inference import SVI, BetaTc, Constant, Elbo, FreeBits, Iwae, Linear, fit
from inference.data import Binary, Dataset, Split
from inference.evaluation.validation import Validation, Validator
from inference.objectives import FromPyro
from inference.training.progress import Progress
from inference.training.selection import choose, default_select

from .test_check import BITS, Sound

SPLIT = Split(BITS.repeat(4, 1), Binary())
DATA = Dataset("bits", SPLIT, SPLIT, SPLIT)

DEFAULTS: list[tuple[Any, Any, str]] = [
    (Elbo(), Constant(), "elbo"),
    (Elbo(), Linear(2), "elbo"),
    (Elbo(), Constant(0.5), "objective"),
    (Elbo(), Linear(2, end=4.0), "objective"),
    (Elbo(beta=0.00025), Constant(), "objective"),
    (FreeBits(nats=0.5), Constant(), "objective"),
    (Iwae(3), Constant(), "elbo"),
    (BetaTc(32), Constant(), "objective"),
    (FromPyro(Trace_ELBO()), Constant(), "elbo"),
]


@pytest.mark.parametrize(("objective", "weight", "select"), DEFAULTS)
def test_default_is_the_elbo_where_that_is_optimised(
    objective: Any, weight: Any, select: str
) -> None:
    assert default_select(objective, weight, 10) == select


def progress() -> Progress:
    return Progress(torch.empty(0), torch.zeros(3))


def test_each_choice_keeps_its_weights() -> None:
    """Of ELBOs -3, -1, -2 and objectives -5, -6, -4; the first is at another KL weight."""
    rows = [(-3.0, -5.0, False), (-1.0, -6.0, True), (-2.0, -4.0, True)]
    expected = {"elbo": (1, -1.0, 1), "objective": (2, -4.0, 0), "last": (None, -1.0, 1)}
    for by, (place, best, stale) in expected.items():
        state = progress()
        for i, (elbo, objective, settled) in enumerate(rows):
            found = Validation(elbo, 0.0, 0.0, objective=objective if by == "objective" else None)
            choose(by, state, found, settled, lambda i=i: {"place": torch.tensor(i)})  # type: ignore[arg-type]
        kept = state.best_weights.get("place")
        assert (None if kept is None else int(kept), state.best, state.stale) == (
            place,
            best,
            stale,
        )


def test_value_is_what_is_optimised() -> None:
    """reconstruction - beta * weight * KL, with the same draws."""
    pair = Sound()
    split = Split(BITS, Binary())
    plain = Validator(pair.model, pair.guide, split)()
    found = Validator(pair.model, pair.guide, split, objective=Elbo(beta=0.25))(0.5)
    assert found.objective == pytest.approx(plain.reconstruction - 0.125 * plain.kl, abs=1e-5)
    assert found[:5] == plain[:5]
    with torch.no_grad():
        pyro.set_rng_seed(0)
        theirs = Iwae(4)(pair.model, pair.guide, BITS).bound
    many = Validator(pair.model, pair.guide, split, objective=Iwae(4))()
    assert many.objective == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("select", ["elbo", "objective", "last", None])
def test_fit_hands_over_what_it_chose(select: Any) -> None:
    pyro.set_rng_seed(1)
    pair = Sound()
    svi = SVI(pair.model, pair.guide, objective=Elbo(beta=0.1))
    trace = fit(svi, DATA, epochs=6, batch_size=8, select=select, show_progress=False)
    valid = trace.split("valid")
    objective = select in ("objective", None)
    assert all((row.objective is not None) == objective for row in valid)
    if select == "last":
        assert trace.weights == {}
        return
    best = trace.best()
    value = max((row.objective if objective else row.elbo) or 0.0 for row in valid)
    assert best is not None
    assert (best.objective if objective else best.elbo) == value
    svi.load_weights(trace.weights)
    again = Validator(pair.model, pair.guide, DATA.valid)()
    assert again.elbo == pytest.approx(best.elbo, abs=1e-5)


def test_patience_counts_at_a_constant_weight() -> None:
    """At a learning rate of 0 nothing gets better: one best validation, and two stale ones."""
    pair = Sound()
    svi = SVI(pair.model, pair.guide, lambda p: torch.optim.SGD(p, 0.0))
    options: Any = {"epochs": 20, "batch_size": 8, "patience": 2, "show_progress": False}
    trace = fit(svi, DATA, kl_weight=Constant(0.5), **options)
    assert len(trace.split("valid")) == 3


class Halved:
    """An objective of one's own that is no `Objective`: half the weight on the KL."""

    state: None = None

    def __call__(self, model: Any, guide: Any, x: Any) -> Any:
        return Elbo(beta=0.5)(model, guide, x)


def test_an_objective_of_any_callable_is_fitted() -> None:
    pair = Sound()
    options: Any = {"epochs": 2, "batch_size": 8, "show_progress": False}
    for select in (None, "objective"):
        svi = SVI(pair.model, pair.guide, objective=cast(Any, Halved()))
        rows = fit(svi, DATA, select=select, **options).split("valid")
        assert all((row.objective is None) == (select is None) for row in rows)
