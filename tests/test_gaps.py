"""The inference gap against its closed form on linear-Gaussian models."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference.evaluation import inference_gaps

from .pairs import PAIRS
from .scenarios import ExactPosterior, linear_gaussian
from .test_exact import best_diagonal


def test_best_diagonal_guide_has_no_amortisation_gap() -> None:
    truth = linear_gaussian()
    x = truth.sample(40)
    gaps = inference_gaps(
        truth.model(), best_diagonal(truth), x, steps=50, learning_rate=1e-3, show_progress=False
    )
    assert gaps.amortisation.mean().item() == pytest.approx(0.0, abs=0.03)
    assert gaps.approximation.mean().item() == pytest.approx(truth.diagonal_gap, abs=0.08)


def test_bad_encoder_is_told_from_a_bad_family() -> None:
    """Shifted means and wrong widths: refining ends at the family's own gap."""
    truth = linear_gaussian()
    x, guide = truth.sample(40), best_diagonal(truth)
    with torch.no_grad():
        list(guide.parameters())[1].add_(torch.tensor([0.3, -0.4, 0.5, 0.5]))
    before = [value.clone() for value in guide.parameters()]
    gaps = inference_gaps(truth.model(), guide, x, show_progress=False)
    assert gaps.amortisation.mean().item() > 1
    refined = (truth.log_prob(x) - gaps.refined).mean().item()
    assert refined == pytest.approx(truth.diagonal_gap, abs=0.03)
    assert all(map(torch.equal, before, guide.parameters()))
    assert all(p.requires_grad and p.grad is None for p in guide.parameters())
    summary = gaps.summary()
    whole = summary["approximation"] + summary["amortisation"]
    assert whole == pytest.approx(summary["log_px"] - summary["elbo"], abs=1e-6)


def test_exact_posterior_has_no_gap() -> None:
    """A full covariance, its Cholesky factor free."""
    truth = linear_gaussian()
    x = truth.sample(20)
    gaps = inference_gaps(
        truth.model(), ExactPosterior(truth), x, steps=20, learning_rate=1e-4, show_progress=False
    )
    assert gaps.approximation.abs().max() < 0.01
    assert gaps.amortisation.abs().max() < 0.01


def test_what_cannot_be_refined_is_refused() -> None:
    pair = PAIRS["discrete"]()
    with pytest.raises(ValueError, match="Site 'b' is discrete or outside"):
        inference_gaps(pair.model, pair.guide, pair.x, steps=1, show_progress=False)
    pair = PAIRS["bernoulli"]()

    def flow(x: Tensor) -> None:
        base = dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            moved = dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.1, 2.0)])
            pyro.sample("z", moved)

    with pytest.raises(ValueError, match="whose parameters lie in its transforms"):
        inference_gaps(pair.model, flow, pair.x, steps=1, show_progress=False)
