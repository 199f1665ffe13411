"""The same code on a CUDA device."""

import gc
from collections.abc import Callable
from pathlib import Path

import pyro
import pytest
import torch
import yaml

import guides
import models
from inference import SVI, Compile, Elbo, Precision
from inference.check import check
from inference.data import Split, load
from inference.evaluation import evaluate, interpolations, prior_samples, reconstructions
from inference.precision import products_in
from inference.runs import Run
from inference.training import fit

from .devices import modules
from .pairs import PAIRS, Pair
from .test_capture import CAPTURABLE
from .test_device import careless

pytestmark = pytest.mark.cuda


def on_cuda(name: str) -> Pair:
    pair = CAPTURABLE[name]()
    for program in (pair.model, pair.guide):
        for module in modules(program):
            module.cuda()
    x = tuple(t.cuda() for t in pair.x) if isinstance(pair.x, tuple) else pair.x.cuda()
    return pair._replace(x=x)


GIVEN_UP = ("prior resampled", "sequence")
"""Pairs whose capture may be given up on CUDA: draws by rejection, cuDNN's recurrence."""

NAMES = ["bernoulli", "binomial", "normal", "normal fixed"]
NO_WAIT = [*NAMES, "student t", "prior student-t", "conditional", "methods", "semi-amortized"]


@pytest.mark.parametrize("name", NAMES)
def test_elbo_is_the_cpus_in_expectation(name: str) -> None:
    """Means of 2,000 draws a datum, |z| < 4."""
    pair = PAIRS[name]()
    with torch.no_grad():
        cpu = Elbo(2000)(pair.model, pair.guide, pair.x)
        pair.model.cuda()
        pair.guide.cuda()
        gpu = Elbo(2000)(pair.model, pair.guide, pair.x.cuda())
    assert gpu.bound.item() == pytest.approx(cpu.bound.item(), rel=0.02)


@pytest.mark.parametrize("name", NO_WAIT)
def test_step_does_not_wait_for_the_device(name: str) -> None:
    pair = on_cuda(name)
    svi = SVI(pair.model, pair.guide, clip_norm=1.0)
    for _ in range(3):
        svi.step(pair.x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        svi.step(pair.x)
        svi.step(pair.x, kl_weight=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [n for n in CAPTURABLE if CAPTURABLE[n]().captures])
def test_graph_takes_the_eager_steps_of_every_pair(name: str) -> None:
    """Captured, or given up aloud by a ValueError; in either case draws go on afterwards."""
    traces: dict[str, torch.Tensor] = {}
    for how in ("off", "auto"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        pair = on_cuda(name)
        svi = SVI(pair.model, pair.guide, compile="graph" if how == "auto" else "off")
        pyro.set_rng_seed(1)
        try:
            traces[how] = torch.stack([torch.stack(svi.step(pair.x)) for _ in range(12)])
        except ValueError as error:
            if name not in GIVEN_UP or "can't be captured" not in str(error):
                raise
    draws = torch.randn(10_000, device="cuda")
    assert 0.9 < draws.std() < 1.1
    if "auto" in traces:
        torch.testing.assert_close(traces["auto"], traces["off"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", GIVEN_UP)
def test_draws_go_on_after_a_capture_is_given_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.training.captures.PATIENCE", 2)
    pair = on_cuda(name)
    svi = SVI(pair.model, pair.guide, compile="auto")
    bounds = torch.stack([svi.step(pair.x).bound for _ in range(8)])
    assert bounds.isfinite().all()
    assert len(bounds.unique()) > 1
    assert 0.9 < torch.randn(10_000, device="cuda").std() < 1.1


def test_results_that_outlive_their_recording_leave_room_for_the_next_one() -> None:
    kept = []
    for _ in range(3):
        pair = on_cuda("bernoulli")
        svi = SVI(pair.model, pair.guide, compile="graph")
        kept.append([svi.step(pair.x) for _ in range(8)][-1])
        assert svi.captured == "graph"
        del svi
        gc.collect()
    assert all(step.bound.isfinite() for step in kept)


@pytest.mark.parametrize("how", ["off", "graph"])
def test_pair_that_names_no_device(how: Compile) -> None:
    pyro.set_rng_seed(0)
    pair = careless()
    pair.model.cuda()
    pair.guide.cuda()
    x = pair.x.cuda()
    svi = SVI(pair.model, pair.guide, compile=how)
    bounds = torch.stack([svi.step(x).bound for _ in range(8)])
    assert bounds.is_cuda
    assert bounds.isfinite().all()
    assert prior_samples(pair.model, x)["x"].is_cuda
    if how == "off":
        torch.cuda.set_sync_debug_mode("error")
        try:
            svi.step(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("precision", "largest"), [("32", 1e-5), ("tf32", 1e-2)])
def test_products_are_as_precise_as_said(precision: Precision, largest: float) -> None:
    a, b = torch.rand(512, 512, device="cuda"), torch.rand(512, 512, device="cuda")
    image = torch.rand(8, 16, 32, 32, device="cuda")
    kernel = torch.rand(16, 16, 3, 3, device="cuda")
    cases: list[tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]
    cases = [(torch.mm, (a, b)), (torch.conv2d, (image, kernel))]
    with products_in(precision):
        for function, factors in cases:
            found, exact = function(*factors), function(*(factor.double() for factor in factors))
            assert ((found - exact) / exact).abs().max() < largest


def test_large_passes_fit_the_memory() -> None:
    """3 x 32 x 32 mixtures of 10 logistics: 131,072 rows of them would take 48 GB a tensor."""
    event = (3, 32, 32)
    likelihood = models.MixtureOfDiscretisedLogistics(event, 10)
    decoder = models.MLP(4, likelihood.parameter_shape, [8])
    model = models.VAE(models.StandardNormal(4), decoder, likelihood).cuda()
    guide = guides.Amortized(guides.MLP(event, 8, [8]), guides.DiagonalNormal(4)).cuda()
    torch.cuda.reset_peak_memory_stats()
    split = Split(torch.rand(64, *event, device="cuda"))
    found = evaluate(model, guide, split, particles=2000, show_progress=False)
    assert found.log_px.isfinite().all()
    assert torch.cuda.max_memory_allocated() < 20 << 30


@pytest.mark.parametrize("how", ["graph", "inductor"])
@pytest.mark.parametrize("name", [*NAMES, "flow", "batch norm and dropout"])
def test_captured_steps_are_the_eager_ones(name: str, how: Compile) -> None:
    traces = []
    for each in ("off", how):
        pyro.set_rng_seed(0)
        pair = on_cuda(name)
        svi = SVI(pair.model, pair.guide, compile=each)
        traces.append(torch.stack([torch.stack(svi.step(pair.x)) for _ in range(12)]))
        assert svi.captured == (None if each == "off" else how)
    torch.testing.assert_close(traces[1], traces[0], rtol=1e-3, atol=1e-3)


def test_captured_step_does_not_wait_for_the_device() -> None:
    pair = on_cuda("bernoulli")
    svi = SVI(pair.model, pair.guide, compile="graph", clip_norm=1.0)
    for _ in range(10):
        svi.step(pair.x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            svi.step(pair.x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_captured_evaluation_is_the_eager_one() -> None:
    pair = on_cuda("bernoulli")
    split = Split(pair.x.repeat(20, 1, 1, 1))
    eager, captured = (
        evaluate(pair.model, pair.guide, split, particles=500, compile=how, show_progress=False)
        for how in ("off", "graph")
    )
    torch.testing.assert_close(captured.log_px, eager.log_px, rtol=1e-4, atol=1e-4)


def test_run_on_cuda(tmp_path: Path) -> None:
    data = load("digits").to("cuda")
    pyro.set_rng_seed(0)
    model = models.VAE(
        models.StandardNormal(4),
        models.MLP(4, data.event_shape),
        models.Bernoulli(data.event_shape),
    ).cuda()
    guide = guides.Amortized(guides.MLP(data.event_shape, 8), guides.DiagonalNormal(4)).cuda()
    x = data.train.batch(slice(64))
    assert check(model, guide, x) == []
    facts = {"data": {}, "parameters": 0}
    run = Run.create(tmp_path / "run", yaml.safe_dump({"seed": 0}), facts)
    trace = fit(SVI(model, guide), data, epochs=10, batch_size=64, run=run, show_progress=False)
    longer = fit(
        SVI(model, guide), data, epochs=12, batch_size=64, run=Run(run.path), show_progress=False
    )
    assert longer.rows[: len(trace)] == trace.rows
    assert trace.split("valid")[-1].elbo > trace.split("valid")[0].elbo
    result = evaluate(model, guide, data.test, particles=50, show_progress=False).summary()
    assert result["elbo"] < result["log_px"] < 0
    for images in (prior_samples(model, x), reconstructions(model, guide, x)):
        assert images["x"].is_cuda
    assert interpolations(model, guide, x, 5)["x"].shape == (32 * 5, *data.event_shape)
