"""Entries of x that are missing: closed forms, every likelihood, files, and imputation."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from sklearn.datasets import load_diabetes
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from torch import Tensor

import guides
import models
from inference import Run, check, evaluate, load_run, log_weights
from inference.data import Dataset, Levels, Split, Standardised
from inference.training import SVI, fit
from models import MLP, MaskedVAE, StandardNormal

from .pairs import PAIRS
from .scenarios import LinearGaussian, linear_gaussian

pytestmark = pytest.mark.usefixtures("undrawn")


def model_of(truth: LinearGaussian) -> MaskedVAE:
    plain = truth.model()
    return MaskedVAE(plain.prior, plain.decoder, plain.likelihood)


class Posterior(PyroModule):
    """The exact q(z | x_o) of a linear-Gaussian model, datum by datum."""

    def __init__(self, truth: LinearGaussian) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, x: Tensor, mask: Tensor) -> None:
        truth = self.truth
        seen = mask.to(x.dtype)
        weight = seen.unsqueeze(-1) * truth.weight  # rows that are missing tell nothing
        eye = torch.eye(truth.weight.shape[1], dtype=x.dtype)
        precision = weight.mT @ weight / truth.variance + eye
        pull = (weight.mT @ ((x - truth.mean) * seen).unsqueeze(-1)).squeeze(-1) / truth.variance
        loc = torch.linalg.solve(precision, pull)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))


def some_missing(truth: LinearGaussian, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, the mask and log p(x_o) by the marginal normal of what is observed."""
    torch.manual_seed(2)
    x = truth.sample(size)
    mask = torch.rand(x.shape) < 0.6
    covariance = truth.weight @ truth.weight.T
    covariance += truth.variance * torch.eye(len(covariance), dtype=x.dtype)
    log_px = torch.zeros(size, dtype=x.dtype)
    for n, seen in enumerate(mask):
        if seen.any():
            normal = torch.distributions.MultivariateNormal(
                truth.mean[seen], covariance[seen][:, seen]
            )
            log_px[n] = normal.log_prob(x[n, seen])
    return x, mask, log_px


def test_log_weights_at_the_posterior_are_log_p_of_the_observed_entries() -> None:
    truth = linear_gaussian()
    x, mask, log_px = some_missing(truth, 30)
    for wrong in (0.0, 7.0):  # what stands in missing places plays no part
        batch = (x.where(mask, torch.tensor(wrong).double()), mask)
        weights = log_weights(model_of(truth), Posterior(truth), batch, particles=3)
        torch.testing.assert_close(weights.total, log_px.expand(3, -1), atol=1e-5, rtol=0)


def test_the_optimum_is_that_of_the_observed_entries() -> None:
    """The learned mean is the maximum-likelihood one, the average of what is observed.

    Without a latent influence x_d ~ N(mu_d, 1), and each mu_d is the mean of the observed x_d.
    """
    torch.manual_seed(0)
    x = torch.randn(200, 3) + torch.tensor([1.0, -2.0, 4.0])
    mask = torch.rand(200, 3) < 0.5
    model = MaskedVAE(StandardNormal(1), torch.nn.Linear(1, 3), models.Normal((3,), 1.0, False))
    torch.nn.init.zeros_(model.decoder.weight)  # type: ignore[arg-type]
    model.decoder.weight.requires_grad_(False)  # type: ignore[union-attr]
    guide = guides.MaskedAmortized(guides.MLP((6,), 2, [4]), guides.DiagonalNormal(1))
    split = Split(x, mask=mask)
    svi = SVI(model, guide, lambda p: torch.optim.Adam(p, 0.05))
    fit(svi, Dataset("x", split, split, split), epochs=300, batch_size=200, show_progress=False)
    expected = (x * mask).sum(0) / mask.sum(0)
    torch.testing.assert_close(model.decoder.bias.detach(), expected, atol=0.02, rtol=0)  # type: ignore[union-attr]


LIKELIHOODS = {
    "bernoulli": (models.Bernoulli, lambda: torch.bernoulli(torch.full((12, 4), 0.5))),
    "binomial": (models.Binomial, lambda: torch.randint(0, 17, (12, 4)).float()),
    "normal": (models.Normal, lambda: torch.randn(12, 4)),
    "laplace": (models.Laplace, lambda: torch.randn(12, 4)),
    "student t": (models.StudentT, lambda: torch.randn(12, 4)),
    "heteroscedastic": (models.HeteroscedasticNormal, lambda: torch.randn(12, 4)),
    "continuous bernoulli": (models.ContinuousBernoulli, lambda: torch.rand(12, 4)),
    "logistic": (models.DiscretisedLogistic, lambda: torch.randint(0, 256, (12, 4)) / 255),
    "mixture": (models.MixtureOfDiscretisedLogistics, lambda: torch.randint(0, 256, (12, 4)) / 255),
    "categorical": (models.Categorical, lambda: torch.randint(0, 256, (12, 4)) / 255),
    "poisson": (models.Poisson, lambda: torch.randint(0, 9, (12, 4)).float()),
    "negative binomial": (models.NegativeBinomial, lambda: torch.randint(0, 9, (12, 4)).float()),
    "zero-inflated": (
        models.ZeroInflatedNegativeBinomial, lambda: torch.randint(0, 9, (12, 4)).float(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_product_over_entries_counts_the_observed_alone(name: str) -> None:
    make, data = LIKELIHOODS[name]
    torch.manual_seed(0)
    likelihood: Any = make((4,))
    model = MaskedVAE(StandardNormal(2), MLP(2, likelihood.parameter_shape, [8]), likelihood)
    guide = guides.MaskedAmortized(guides.MLP((8,), 4, [8]), guides.DiagonalNormal(2))
    x, mask = data(), torch.rand(12, 4) < 0.6
    torch.manual_seed(1)
    found = log_weights(model, guide, (x * mask, mask), particles=2)
    z = found.draws["z"]
    entries = likelihood(model.decoder(z)).base_dist.log_prob((x * mask).expand(2, 12, 4))
    torch.testing.assert_close(found.likelihood["x"], (entries * mask).sum(-1))
    assert not [each for each in check(model, guide, (x * mask, mask)) if each.kind == "fault"]


@pytest.mark.parametrize("name", ["multinomial", "networks autoregressive"])
def test_no_product_over_entries_is_refused(name: str) -> None:
    model = PAIRS[name]().model
    with pytest.raises(ValueError, match="can't leave out missing entries: it is no product"):
        MaskedVAE(model.prior, model.decoder, model.likelihood)
    with pytest.raises(ValueError, match="OptimalNormal can't leave out"):
        MaskedVAE(StandardNormal(2), MLP(2, (4,)), models.OptimalNormal((4,)))


def test_arrays_know_what_is_missing() -> None:
    x = np.arange(40.0).reshape(10, 4) + 0.25
    x[2, 1] = x[5] = np.nan
    data = Dataset.from_arrays({"train": x, "valid": x[:2], "test": x[:4]})
    assert data.unit == "nats of a density on x as given of the observed entries"
    view = data.train.view
    assert isinstance(view, Standardised)
    assert view.mean == pytest.approx(tuple(np.nanmean(x, 0)))
    seen, mask = data.train.batch(slice(None))
    assert torch.equal(mask, torch.tensor(~np.isnan(x)))
    assert (seen[~mask] == 0).all()
    log_det = data.train.log_det()
    assert log_det is not None
    logs = torch.tensor(view.scale).double().log()
    torch.testing.assert_close(log_det, -(logs * mask).sum(1))
    bytes_ = np.full((10, 4), 9, np.uint8)
    given = Dataset.from_arrays(bytes_, given={"mask": np.arange(40).reshape(10, 4) % 3 > 0})
    assert given.train.view == Levels(255)
    assert not given.train.mask.all()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="mask of the shape of x"):
        Dataset.from_arrays(bytes_, given={"mask": np.ones(10)})


def call(script: str, *words: object) -> None:
    import_module(f"scripts.{script}").main(list(map(str, words)))


def table(share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's diabetes data, and the same with a share of the cells empty."""
    x: Any = load_diabetes(scaled=False).data  # type: ignore[attr-defined]
    holes = np.random.RandomState(0).rand(*x.shape) < share
    return x, np.where(holes, np.nan, x)


def test_a_table_with_empty_cells_goes_the_whole_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, x = table(0.2)
    path, run = tmp_path / "table.csv", tmp_path / "run"
    pd.DataFrame(x, columns=[f"c{n}" for n in range(10)]).to_csv(path, index=False)  # type: ignore[arg-type]
    tiny = [
        "--encoder.hidden",
        "[16]",
        "--decoder.hidden",
        "[16]",
        "--latent_dim",
        "3",
        "--epochs",
        "2",
    ]
    call("check", "--data", path, *tiny[:-2])
    call("train", "--data", path, *tiny, "--run", run)
    call("evaluate", run, "--particles", 5, "--ais", 2, "--chains", 2, "--distributions", 3)
    call("sample", run, "--rows", 2, "--columns", 2)
    assert Run(run).unit.endswith("of the observed entries")
    call("apply", run, path, "--what", "impute", "--particles", 20, "--out", tmp_path / "full.csv")
    full = pd.read_csv(tmp_path / "full.csv").to_numpy()[:, :10]
    assert np.isfinite(full).all()
    np.testing.assert_allclose(full[~np.isnan(x)], x[~np.isnan(x)])
    opened = load_run(run)
    assert opened.encode(path).shape == (442, 3)
    assert opened.sample(4).shape == opened.reconstruct(path)[:4].shape == (4, 10)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call("train", "--data", path, "--amortization", "SemiAmortized", "--run", tmp_path / "no")
    assert "SemiAmortized takes no mask: the batch is (x, mask)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_imputation_is_better_than_the_mean_and_as_good_as_iterative(share: float) -> None:
    x, holed = table(share)
    missing, scale = np.isnan(holed), x.std(0)
    torch.manual_seed(0)
    data = Dataset.from_arrays({"train": holed, "valid": holed[::5], "test": holed[::5]})
    likelihood = models.HeteroscedasticNormal((10,))
    model = MaskedVAE(StandardNormal(8), MLP(8, likelihood.parameter_shape, [64]), likelihood)
    guide = guides.MaskedAmortized(guides.MLP((20,), 16, [64]), guides.DiagonalNormal(8))
    fit(SVI(model, guide), data, epochs=600, batch_size=64, show_progress=False, select="last")
    from inference.evaluation import impute

    z, mask = data.train.batch(slice(None))
    found = data.train.view.undo(impute(model, guide, (z, mask), mask, particles=500).x).numpy()

    def error(filled: np.ndarray) -> float:
        return float(np.sqrt((((filled - x) / scale)[missing] ** 2).mean()))

    imputers = (IterativeImputer(max_iter=50, random_state=0), SimpleImputer())
    iterative, mean = (error(np.asarray(each.fit_transform(holed))) for each in imputers)
    mine = error(found)
    print(f"{share}: {mine:.3f}, IterativeImputer {iterative:.3f}, the mean {mean:.3f}")
    assert mine < mean
    assert mine < 1.05 * iterative


def test_evaluation_of_incomplete_data_is_exact_at_the_posterior() -> None:
    truth = linear_gaussian()
    x, mask, log_px = some_missing(truth, 20)
    from .test_exact import Double

    split = Split(x, Double(), mask=mask)
    found = evaluate(model_of(truth), Posterior(truth), split, particles=4, show_progress=False)
    torch.testing.assert_close(found.log_px, log_px)
