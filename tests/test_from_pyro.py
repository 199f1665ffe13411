"""What a user of Pyro types first: its optimisers, its ELBOs."""

from typing import Any, cast

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro.infer import (
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from torch import Tensor, nn

from inference import SVI

from .test_check import BITS, Sound

optim: Any = pyro.optim

OPTIMISERS = [
    lambda: optim.Adam({"lr": 0.01}),
    lambda: optim.SGD({"lr": 0.1, "momentum": 0.9}),
    lambda: optim.ClippedAdam({"lr": 0.01, "lrd": 0.99}),
    lambda: optim.PyroOptim(torch.optim.RMSprop, {"lr": 0.01}),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_first_call_of_a_pyro_user(optimiser: Any) -> None:
    """Ten steps from the same seed leave the parameters of Pyro's own SVI."""
    found: list[list[Tensor]] = []
    for ours in (True, False):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)

        def model(x: Tensor, decoder: nn.Module = decoder) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

        def guide(x: Tensor, encoder: nn.Module = encoder) -> None:
            pyro.module("encoder", encoder)
            loc, log_scale = encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        def mean(*arguments: Any) -> Tensor:
            return Trace_ELBO().differentiable_loss(*arguments) / len(BITS)

        if ours:
            svi: Any = SVI(model, guide, optimiser(), Trace_ELBO(), compile="off")
            svi.prepare(BITS)
        else:
            svi = pyro.infer.SVI(model, guide, optimiser(), cast(Any, mean))
        pyro.set_rng_seed(1)
        for _ in range(10):
            svi.step(BITS)
        found.append([p.detach().clone() for m in (encoder, decoder) for p in m.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


STEPS: Any = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "step_size": 5}
REFUSED = [
    (lambda p: optim.Adam(lambda name: {"lr": 0.1}), ValueError, "function of arguments"),
    (lambda p: optim.Adam({"lr": 0.1}, {"clip_norm": 1.0}), ValueError, r"clip_norm=10\.0"),
    (lambda p: optim.StepLR(STEPS), ValueError, "scheduler=lambda"),
    (lambda p: torch.optim.Adam(p, lr=0.1), TypeError, r"lambda parameters: Adam\(parameters"),
]  # fmt: skip


@pytest.mark.parametrize(("optimiser", "error", "words"), REFUSED)
def test_what_can_not_be_taken_is_said(optimiser: Any, error: Any, words: str) -> None:
    pair = Sound()
    with pytest.raises(error, match=words):
        SVI(pair.model, pair.guide, optimiser(pair.parameters()), Trace_ELBO())


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
        TraceEnum_ELBO(max_plate_nesting=1),
        TraceGraph_ELBO(),
        TraceMeanField_ELBO(),
        RenyiELBO(alpha=cast(Any, 0.5), num_particles=2),
    ],
    ids=lambda elbo: type(elbo).__name__,
)
@pytest.mark.filterwarnings("ignore:.*found no sample sites configured for enumeration")
def test_elbo_steps_and_evaluates(elbo: Any) -> None:
    """`evaluate` is the value of the same ELBO at the same seed, per datum."""
    pyro.set_rng_seed(0)
    pair = Sound()
    svi = SVI(pair.model, pair.guide, optim.Adam({"lr": 0.01}), elbo)
    assert svi.step(BITS).bound.isfinite()
    pyro.set_rng_seed(2)
    bound = svi.evaluate(BITS).bound
    pyro.set_rng_seed(2)
    with torch.no_grad(), pyro.validation_enabled(False):
        theirs = -elbo.loss(pair.model, pair.guide, BITS) / len(BITS)
    assert float(bound) == pytest.approx(float(theirs), abs=1e-5)


def test_pair_that_only_pyro_takes_trains() -> None:
    """A plate to the right of the data's: a datum has no log weight, and nothing is refused."""

    class Right(Sound):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1))
                logits = self.decoder(z).squeeze(-2)
                with pyro.plate("pixels", 3, dim=-1):
                    pyro.sample("x", dist.Bernoulli(logits=logits), obs=x)

        def guide(self, x: Tensor) -> None:
            loc, log_scale = self.encoder(x).unsqueeze(-2).chunk(2, -1)
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    pair = Right()
    estimate = SVI(pair.model, pair.guide, objective=Trace_ELBO()).step(BITS)
    assert estimate.bound.isfinite()


@pytest.mark.parametrize("loss", [ReweightedWakeSleep, TraceTailAdaptive_ELBO])
def test_loss_that_bounds_nothing_is_refused(loss: Any) -> None:
    pair = Sound()
    with pytest.raises(TypeError, match=rf"{loss.__name__}.*RenyiELBO\(alpha=0"):
        SVI(pair.model, pair.guide, objective=loss(num_particles=2))


def test_what_is_no_elbo_is_refused() -> None:
    pair = Sound()
    distance: Any = pyro.infer.EnergyDistance()
    with pytest.raises(TypeError, match="Expected an objective or one of Pyro's ELBOs; got Energy"):
        SVI(pair.model, pair.guide, objective=distance)
