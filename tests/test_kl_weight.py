"""KL warm-up: the schedules' values, and the handler."""

import math

import pyro.infer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import SVI, Constant, Cyclic, KLWeight, Linear
from inference.data import Dataset, Split
from inference.evaluation import Validator
from inference.training import fit

from .pairs import PAIRS, bits


def test_linear() -> None:
    schedule = Linear(epochs=10, start=0.2)
    assert [schedule(t) for t in (0, 5, 10, 1000)] == pytest.approx([0.2, 0.6, 1.0, 1.0])


def test_cyclic() -> None:
    schedule = Cyclic(period=10, cycles=2, rise=0.5)
    times = (0, 2.5, 5, 9.9, 10, 12.5, 20, 100)
    assert [schedule(t) for t in times] == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1])


@given(st.floats(0, 1e6), st.floats(0, 1), st.floats(0.1, 100))
def test_warm_ups_stay_between_start_and_one(epoch: float, start: float, length: float) -> None:
    for schedule in (Linear(length, start), Cyclic(length, 3, 0.5, start)):
        assert start - 1e-12 <= schedule(epoch) <= 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant(-0.1), "at least 0; got -0.1"),
        (lambda: Linear(0), "more than 0 epochs; got 0"),
        (lambda: Cyclic(rise=0), "rise=0"),
    ],
)
def test_schedules_refuse(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_pyros_own_elbo_sees_the_weight() -> None:
    pair = PAIRS["bernoulli"]()
    losses = []
    for weight in (1.0, 0.0, 0.5):
        pyro.set_rng_seed(0)
        with KLWeight(weight):
            losses.append(pyro.infer.Trace_ELBO().loss(pair.model, pair.guide, pair.x))
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-6)


def test_trace_of_a_warm_up_holds_the_plain_elbo() -> None:
    """At weight 0 throughout, the rows still are reconstruction - KL, and valid is the ELBO's."""
    pair = PAIRS["bernoulli"]()
    data = Dataset("bits", Split(bits(60)), Split(bits(20)), Split(bits(20)))
    svi = SVI(pair.model, pair.guide)
    trace = fit(svi, data, epochs=3, batch_size=20, kl_weight=Constant(0.0), show_progress=False)
    for row in trace.rows:
        assert row.elbo == pytest.approx(row.reconstruction - row.kl, abs=1e-4)
    assert trace.rows[-1].elbo == Validator(svi.model, svi.guide, data.valid)().elbo
    assert math.isfinite(trace.rows[-1].kl)
