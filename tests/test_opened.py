"""A run opened again: codes, data, scores, imputations, by closed forms and its own numbers."""

import math
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor

from guides import Amortized
from inference import Run, load_run
from inference.data import Dataset, Split, load
from inference.evaluation import evaluate, impute
from inference.runs import OpenRun, environment
from inference.training import SVI, fit
from models import VAE

from .pairs import PAIRS
from .scenarios import LinearGaussian, linear_gaussian
from .test_exact import best_diagonal

pytestmark = pytest.mark.usefixtures("undrawn")


def posterior_of_missing(truth: LinearGaussian, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[x_m | x_o] in the missing places, and log p(x_o), by the marginal normal of x."""
    cov = truth.weight @ truth.weight.T + truth.variance * torch.eye(len(truth.mean)).double()
    full, log_px = x.clone(), torch.zeros(len(x), dtype=x.dtype)
    for n, (row, seen) in enumerate(zip(x, mask, strict=True)):
        o, m = seen.nonzero()[:, 0], (~seen).nonzero()[:, 0]
        normal = torch.distributions.MultivariateNormal(truth.mean[o], cov[o][:, o])
        log_px[n] = normal.log_prob(row[o])
        gain = torch.linalg.solve(cov[o][:, o], cov[o][:, m]).T
        full[n, m] = truth.mean[m] + gain @ (row[o] - truth.mean[o])
    return full, log_px


class AsPrior(PyroModule):
    """The guide q(z | x) = p(z), wider than any posterior, so that weights are bounded."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).to(x), 1.0).to_event(1))


def test_imputation_is_the_conditional_mean() -> None:
    """In 4 standard errors of the weighted mean, sd / sqrt(ess), at each missing entry of 20 data,
    and so the mean of draws; log p(x_o) in 5 of its own. By chance in 0.01 of all seeds."""
    truth = linear_gaussian()
    torch.manual_seed(1)
    x = truth.sample(20)
    mask = torch.rand(x.shape) < 0.7
    mask[:, 0] = True
    expected, log_px = posterior_of_missing(truth, x, mask)
    guess = x.where(mask, truth.mean)
    found = impute(truth.model(), AsPrior(), guess, mask, particles=20_000, draws=400)
    sd = truth.weight.square().sum(1).sqrt()
    error = (found.x - expected).abs() / sd * found.ess.sqrt().unsqueeze(1)
    assert error.max() < 4
    assert torch.equal(found.x[mask], x[mask])
    assert ((found.log_px - log_px).abs() < 5 / found.ess.sqrt()).all()
    sd = (sd.square() + truth.variance).sqrt()
    error = (found.draws.mean(0) - expected).abs() / sd
    assert error.max() < 4 * (1 / 400 + 1 / found.ess.min()) ** 0.5
    assert (found.draws[:, ~mask].std(0) > 0.25).all()
    assert found.ess.min() > 50
    assert found.k_hat.median() < 0.5


def test_what_stands_in_missing_places_changes_nothing_but_the_noise() -> None:
    truth = linear_gaussian()
    x = truth.sample(5)
    mask = torch.ones_like(x).bool()
    mask[:, 2] = False
    expected, _ = posterior_of_missing(truth, x, mask)
    for wrong in (-1.0, 0.0, 2.0):
        guess = x.where(mask, torch.tensor(wrong).double())
        found = impute(truth.model(), best_diagonal(truth), guess, mask, particles=20_000)
        torch.testing.assert_close(found.x, expected, atol=0.15, rtol=0)


def test_a_guide_too_narrow_is_told_by_its_weights() -> None:
    truth = linear_gaussian()
    x = truth.sample(20)
    mask = torch.ones_like(x).bool()
    mask[:, 1:] = False
    found = impute(truth.model(), best_diagonal(truth), x, mask, particles=1000)
    assert (found.k_hat > 0.7).float().mean() > 0.5


@pytest.mark.parametrize("pair", ["multinomial", "networks autoregressive"])
def test_imputation_needs_a_product_over_entries(pair: str) -> None:
    made = PAIRS[pair]()
    mask = torch.ones_like(made.x).bool()
    with pytest.raises(ValueError, match="Site 'x': .* is no product over the entries of x"):
        impute(made.model, made.guide, made.x, mask, particles=3)


TINY = ["--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--epochs", "1"]


def train(folder: Path, name: str, *words: str) -> Path:
    run = folder / name
    import_module("scripts.train").main([*words, *TINY[4:], "--run", str(run)])
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("opened")


@pytest.fixture(scope="module")
def digits(folder: Path) -> Path:
    return train(folder, "digits", *TINY[:4], "--latent_dim", "3")


def test_a_run_encodes_decodes_samples_and_scores(digits: Path) -> None:
    before = torch.get_rng_state()
    run = load_run(digits)
    x = run.data.test.stored[:7]
    z = run.encode(x)
    assert isinstance(z, Tensor)
    assert z.shape == (7, 3)
    assert torch.equal(run.encode(x.numpy()), z)
    draws = run.encode(x, particles=400)
    assert draws.shape == (400, 7, 3)
    sd = draws.std(0)
    assert ((draws.mean(0) - z).abs() < 5 * sd / 20 + 0.3).all()  # x is binarised anew at each
    means = run.decode(draws[:2])
    assert means.shape == (2, 7, 1, 8, 8)
    assert 0 < means.min() < means.max() < 16  # as the scans are stored
    torch.testing.assert_close(run.decode(z[0]), run.decode(z)[0])
    codes: Any = z[0].double().numpy()
    torch.testing.assert_close(run.decode(codes), run.decode(z)[0])
    assert set(run.decode(z, means=False).unique().tolist()) == {0.0, 16.0}
    assert run.reconstruct(x).shape == x.shape
    assert run.sample(5).shape == (5, 1, 8, 8)
    assert not torch.equal(run.sample(5), run.sample(5, seed=1))
    score = run.log_px(x, particles=30)
    assert score.log_px.shape == score.k_hat.shape == (7,)
    assert torch.equal(run.elbo(x, particles=30), score.elbo)
    full = run.impute(x.float().masked_fill(x > 15, math.nan), particles=50, draws=3)
    assert full.draws.shape == (3, *x.shape)
    assert torch.equal(full.x[x <= 15], x[x <= 15].float())
    assert full.x.isfinite().all()
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(run).startswith("OpenRun(")
    assert run.config["latent_dim"] == 3
    assert len(run.trace.rows) > 1


def test_scores_are_those_of_an_evaluation(digits: Path) -> None:
    run = load_run(digits)
    found = evaluate(run.model, run.guide, run.data.test, particles=20, show_progress=False)
    assert torch.equal(run.log_px(run.data.test, particles=20).log_px, found.log_px)


def test_many_data_go_through_in_parts(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(digits)
    x = run.data.test.stored.clamp(max=1) * 16  # nothing to draw
    whole = run.encode(x)
    monkeypatch.setattr("inference.runs.codes.ROWS", 7)
    torch.testing.assert_close(run.encode(x), whole)
    assert run.sample(10).shape == (10, 1, 8, 8)


def test_a_conditional_pair_takes_what_is_given(folder: Path) -> None:
    pair = str(Path(__file__).parents[1] / "scripts" / "pairs" / "conditional.py")
    run = load_run(train(folder, "given", "--pair", pair, "--data", "digits-labelled"))
    y = torch.arange(4)
    x = run.sample(4, given=(y,))
    assert run.encode((x, y)).shape[0] == 4
    z = run.encode((x, y), particles=2)
    assert run.decode(z, given=(y.expand(2, 4),)).shape == (2, 4, 1, 8, 8)
    for call in (lambda: run.sample(4), lambda: run.sample(3, given=(y,))):
        with pytest.raises(ValueError, match="takes 1 more than x: expected them as given"):
            call()
    with pytest.raises(ValueError, match="1 more tensors come with x; got 0. Give"):
        run.encode(x)


def test_codes_of_several_sites_have_names(folder: Path) -> None:
    pair = str(Path(__file__).parents[1] / "scripts" / "pairs" / "hierarchical.py")
    run = load_run(train(folder, "deep", "--pair", pair))
    codes = run.encode(run.data.test.stored[:3])
    assert isinstance(codes, dict)
    assert {name: len(z) for name, z in codes.items()} == {"z_1": 3, "z_2": 3}
    assert run.decode({"z_1": codes["z_1"]}).shape == (3, 1, 8, 8)
    with pytest.raises(ValueError, match="latent sites z_.*: give their codes by name"):
        run.decode(codes["z_1"])
    with pytest.raises(ValueError, match="No latent site 'w'; there are: z_"):
        run.decode({"w": codes["z_1"]})


def test_wrong_data_are_refused_in_words(digits: Path) -> None:
    run = load_run(digits)
    x = run.data.test.stored[:3]
    for wrong, words in (
        (x[0], r"shape \(8, 8\), and those of digits have \(1, 8, 8\)"),
        (x.reshape(3, 64), r"Give x as \(N, 1, 8, 8\)"),
        (x.float() - 0.5, r"x\[0, 0, 0, 0\] is -0.5, and .* takes numbers from 0"),
        ((x, torch.zeros(3)), "In a batch of digits 0 more tensors come with x; got 1"),
    ):
        with pytest.raises(ValueError, match=words):
            run.encode(wrong)
    with pytest.raises(TypeError, match="Expected x as a tensor or an array"):
        run.encode(3)
    with pytest.raises(FileNotFoundError, match="no data set and no file 'x'"):
        run.encode("x")
    with pytest.raises(ValueError, match="Expected at least 1; got 0"):
        run.encode(x, particles=0)
    with pytest.raises(ValueError, match=r"code of site 'z' has the shape \(3,\); got \(4,\)"):
        run.decode(torch.zeros(4))
    with pytest.raises(ValueError, match="mask of the shape of x"):
        run.impute(x, torch.ones(3))


def test_a_config_that_names_no_part_is_an_error_of_python(digits: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("StandardNormal", "NormalStandard"))
    with pytest.raises(ValueError, match=r"config.yaml: .*NormalStandard"):
        load_run(copy)


def make_pair(event_shape: tuple[int, ...]) -> tuple[VAE, Amortized]:
    assert event_shape == (5,)
    truth = linear_gaussian(torch.float32)
    return truth.model(), truth.diagonal_guide()


def test_a_run_of_python_is_opened_with_its_pair(tmp_path: Path) -> None:
    x = linear_gaussian(torch.float32).sample(60)
    data = Dataset("mine", Split(x[:20]), Split(x[20:40]), Split(x[40:]))
    model, guide = make_pair((5,))
    facts = environment(data, torch.device("cpu"), 1, pair=make_pair)
    run = Run.create(tmp_path / "run", "", facts)
    fit(SVI(model, guide), data, epochs=2, batch_size=10, run=run)
    for pair in (make_pair, make_pair((5,))):
        opened = load_run(run.path, pair=pair, data=data)
        torch.testing.assert_close(opened.encode(x[:3]), guide.encoder(x[:3])[:, :2].detach())
    assert isinstance(load_run(run.path, data=data, trust=True), OpenRun)
    with pytest.raises(ValueError, match="made by make_pair of the module tests.test_opened"):
        load_run(run.path, data=data)
    with pytest.raises(ValueError, match=r"data called 'mine', which is no named set: give them"):
        load_run(run.path, pair=make_pair)
    with pytest.raises(ValueError, match="was trained on data with the hash"):
        load_run(run.path, pair=make_pair, data=load("digits"))
    with pytest.raises(ValueError, match="Expected the pair as"):
        load_run(run.path, pair=lambda shape: model, data=data)  # type: ignore[arg-type]


def test_a_run_that_does_not_know_its_pair_says_so(tmp_path: Path) -> None:
    data = load("digits")
    run = Run.create(tmp_path / "run", "", environment(data, torch.device("cpu"), 1))
    with pytest.raises(ValueError, match="made in Python and doesn't say how its pair is made"):
        load_run(run.path)
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
        load_run(tmp_path)
    local = environment(data, torch.device("cpu"), 1, pair=lambda shape: shape)
    assert "made_by" not in local
