"""Evaluation: the bounds against closed forms, and what is said of their reliability."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference import load_run
from inference.data import Split
from inference.evaluation import evaluate

from .pairs import PAIRS
from .scenarios import ExactPosterior, linear_gaussian
from .test_exact import Double, best_diagonal
from .test_scripts import call


def test_weights_are_perfect_at_the_posterior() -> None:
    truth = linear_gaussian()
    x = truth.sample(30)
    result = evaluate(
        truth.model(), ExactPosterior(truth), Split(x, Double()), particles=50, show_progress=False
    )
    log_px = truth.log_prob(x)
    for value in (result.elbo, result.log_px, *result.curve):
        torch.testing.assert_close(value, log_px, atol=1e-6, rtol=0)
    assert torch.allclose(result.ess, torch.tensor(50.0, dtype=torch.float64))
    assert result.log_px_mc_se.max() < 1e-6
    assert result.warnings() == []


@pytest.mark.parametrize("repeats", [1, 20])
def test_standard_error_is_the_spread_of_repeats(repeats: int) -> None:
    """Between two seeds, log_px of 200 data differs as its Monte Carlo error says: chi^2 in +-4 sd.

    The delta method (one repeat) and the spread of repeats are both noisy themselves: the mean of
    200 squared standardised differences, about 1, is held to 0.6 ... 1.6.
    """
    truth = linear_gaussian()
    split = Split(truth.sample(200), Double())
    a, b = (
        evaluate(
            truth.model(),
            best_diagonal(truth),
            split,
            particles=200,
            repeats=repeats,
            seed=seed,
            show_progress=False,
        )
        for seed in (1, 2)
    )
    z = (a.log_px - b.log_px) / (a.log_px_mc_se.square() + b.log_px_mc_se.square()).sqrt()
    assert 0.6 < z.square().mean() < 1.6


def test_curve_rises_to_log_px() -> None:
    truth = linear_gaussian()
    x = truth.sample(300)
    result = evaluate(
        truth.model(), best_diagonal(truth), Split(x, Double()), particles=500, show_progress=False
    )
    assert result.steps.tolist() == [1, 10, 100, 500]
    means = result.curve.mean(1)
    assert (means.diff() > 0).all()
    assert means[-1] < truth.log_prob(x).mean() + 0.02
    torch.testing.assert_close(result.curve[0], result.elbo)
    torch.testing.assert_close(result.curve[-1], result.log_px)


def test_heavy_tails_are_flagged() -> None:
    """A guide far too narrow: the weights' tail has no mean to speak of."""
    truth = linear_gaussian()
    guide = best_diagonal(truth)
    with torch.no_grad():
        list(guide.parameters())[1][2:] -= 2.0  # log scales
    result = evaluate(
        truth.model(), guide, Split(truth.sample(40), Double()), particles=400, show_progress=False
    )
    assert (result.k_hat > 0.7).float().mean() > 0.5
    assert "have a Pareto k-hat above 0.7" in result.warnings()[0]
    assert result.ess.mean() < 100


def test_a_standard_error_without_a_variance_is_said() -> None:
    truth = linear_gaussian()
    split = Split(truth.sample(4), Double())
    result = evaluate(
        truth.model(), ExactPosterior(truth), split, particles=50, show_progress=False
    )
    assert result.notes() == []
    heavy = replace(result, k_hat=torch.tensor([0.4, 0.55, 0.69, math.nan]))
    (note,) = heavy.notes()
    assert note.startswith("2 of 4 data have a Pareto k-hat from 0.5 to 0.7: their log_px_mc_se")


def test_few_particles_have_no_k_hat() -> None:
    pair = PAIRS["bernoulli"]()
    result = evaluate(pair.model, pair.guide, Split(pair.x), particles=5, show_progress=False)
    assert result.k_hat.isnan().all()
    assert result.summary()["k_hat"] is None


def test_passes_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the draws are cut up, each estimate is of the same bound: |z| < 4."""
    truth = linear_gaussian()
    split = Split(truth.sample(100), Double())
    results = []
    for rows in (64, 100_000):
        monkeypatch.setattr("inference.evaluation.tiles.ROWS_PER_PASS", rows)
        results.append(
            evaluate(truth.model(), best_diagonal(truth), split, particles=150, show_progress=False)
        )
    a, b = results
    assert a.curve.shape == b.curve.shape == (4, 100)
    se = math.sqrt(a.summary()["log_px_mc_se"] ** 2 + b.summary()["log_px_mc_se"] ** 2)
    assert abs(a.log_px.mean() - b.log_px.mean()) < 4 * se


@pytest.mark.parametrize(("particles", "repeats"), [(0, 1), (1, 0)])
def test_wrong_sizes_are_refused(particles: int, repeats: int) -> None:
    pair = PAIRS["bernoulli"]()
    with pytest.raises(ValueError, match="at least 1 particle and 1 repeat"):
        evaluate(pair.model, pair.guide, Split(pair.x), particles=particles, repeats=repeats)


def test_other_data_are_scored_in_the_same_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of a split, given as a file, have the split's own numbers."""
    x = np.random.RandomState(0).randn(60, 4) * [1, 10, 100, 1000]
    np.save(tmp_path / "x.npy", x)
    run = tmp_path / "run"
    call("train", "--data", tmp_path / "x.npy", "--epochs", 1, "--batch_size", 8, "--run", run)
    call("evaluate", run, "--particles", 5)
    np.save(tmp_path / "same.npy", load_run(run).data.test.stored.numpy())
    call("evaluate", run, "--particles", 5, "--data", tmp_path / "same.npy")
    known = json.loads((run / "evaluation.json").read_text())
    found = json.loads((run / "evaluation-same.json").read_text())
    assert found["split"] == "same"
    assert {k: found[k] for k in ("elbo", "log_px", "unit")} == {
        k: known[k] for k in ("elbo", "log_px", "unit")
    }
    assert (run / "evaluation-same.npz").exists()
    np.save(tmp_path / "wide.npy", x[:, :3])
    for file, said in (("wide.npy", "has the shape (3,)"), ("none.npy", "no file")):
        with pytest.raises(SystemExit):
            call("evaluate", run, "--data", tmp_path / file)
        assert said in capsys.readouterr().err
