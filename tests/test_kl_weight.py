"""The KL weight: the handler, and warm-ups."""

import math

import pyro.infer
import pytest

from inference import SVI, Constant, KLWeight
from inference.data import Dataset, Split
from inference.evaluation import Validator
from inference.training import fit

from .pairs import PAIRS, bits


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
