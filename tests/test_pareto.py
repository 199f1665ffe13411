"""Pareto k-hat, for all data at once, against the one-datum estimator of arviz-stats."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.evaluation.pareto import k_hat

DATA = 12

WEIGHTS: dict[str, Callable[[int], Tensor]] = {
    "normal": lambda s: torch.randn(s, DATA),
    "narrow": lambda s: 0.01 * torch.randn(s, DATA),
    "wide": lambda s: 30 * torch.randn(s, DATA),
    "far from 0": lambda s: torch.randn(s, DATA) - 1e4,
    "bounded": lambda s: torch.rand(s, DATA).log(),
    "exponential": lambda s: torch.distributions.Exponential(1.0).sample((s, DATA)),
    "cauchy": lambda s: torch.randn(s, DATA).abs().log() - torch.randn(s, DATA).abs().log(),
    "very heavy": lambda s: -5 * torch.rand(s, DATA).log(),
    "rounded": lambda s: (10 * torch.randn(s, DATA)).round() / 10,
    "some zero": lambda s: torch.randn(s, DATA).where(torch.rand(s, DATA) < 0.9, -math.inf),
}


def one_by_one(log_w: Tensor) -> Tensor:
    from arviz_stats.base.array import array_stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # It takes log likelihoods, whose negatives are leave-one-out's log weights.
        found = [array_stats.psislw(-datum.numpy())[1] for datum in log_w.double().T]
    return torch.tensor(np.array(found), dtype=torch.float64)


@pytest.mark.parametrize("draws", [25, 60, 225, 226, 1000, 5000])
@pytest.mark.parametrize("name", WEIGHTS)
def test_it_is_the_one_datum_estimator(name: str, draws: int) -> None:
    log_w = WEIGHTS[name](draws).double()
    found, expected = k_hat(log_w), one_by_one(log_w)
    fitted = ~found.isnan()
    assert fitted.all() or name == "rounded"  # of few draws whole tails may be tied
    torch.testing.assert_close(found[fitted], expected[fitted], rtol=1e-6, atol=1e-6)


def test_floats_are_taken_as_doubles() -> None:
    log_w = torch.randn(500, DATA)
    assert torch.equal(k_hat(log_w), k_hat(log_w.double()))


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8, 1.2])
def test_it_finds_the_shape_of_pareto_weights(shape: float) -> None:
    """w = u^-k has the tail of shape k; the estimate of 40 data is within 4 standard errors.

    The standard deviation of the maximum likelihood estimate is (1 + k) / sqrt(M), and M = 948.
    """
    found = k_hat(-shape * torch.rand(100_000, 40, dtype=torch.float64).log())
    assert found.mean().item() == pytest.approx(
        shape, abs=4 * (1 + shape) / (948 * 40) ** 0.5 + 1e-2
    )


def test_data_may_be_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    log_w = torch.randn(300, 50)
    whole = k_hat(log_w)
    monkeypatch.setattr("inference.evaluation.pareto.AT_ONCE", 1)
    torch.testing.assert_close(k_hat(log_w), whole, rtol=1e-12, atol=0)


def test_no_tail_is_no_error() -> None:
    few = torch.randn(24, 3)
    assert k_hat(few).isnan().all()
    equal = torch.full((100, 3), -7.0)
    assert k_hat(equal).tolist() == [0, 0, 0]
    assert k_hat(equal + 1e-5 * torch.rand(100, 3)).tolist() == [0, 0, 0]
    capped = torch.randn(400, 3).clamp(max=0.5)  # 30% at the cap, a tail of 15%
    assert k_hat(capped).tolist() == [0, 0, 0]
    tied = torch.zeros(100, 1)
    tied[:5] = torch.arange(1.0, 6.0)[:, None]  # the other 15 of the tail are those below it
    assert k_hat(tied).isnan().all()
    unknown = torch.randn(100, 2)
    unknown[3, 0] = math.nan
    assert k_hat(unknown).isnan().tolist() == [True, False]
    assert k_hat(torch.full((100, 1), -math.inf)).isnan().all()


def test_one_weight_that_drowns_the_others_is_a_heavy_tail() -> None:
    """e^-1000 is 0 beside it in any float: the ties of zeros are none of the weights."""
    log_w = torch.randn(1000, 2, dtype=torch.float64)
    log_w[0] = torch.tensor([1000.0, 600.0])
    assert (k_hat(log_w) > 5).all()
    assert k_hat(log_w)[0] == math.inf


def test_results_stay_on_the_device() -> None:
    assert k_hat(torch.zeros(500, 7, device="meta")).device.type == "meta"
