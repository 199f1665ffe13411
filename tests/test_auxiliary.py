"""Sites of a guide that are no plain draws: auxiliary ones, points, what all data share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms as T
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, AutoStructured
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import (
    SVI,
    BetaTc,
    Chi,
    DoublyReparametrised,
    Elbo,
    Enumerate,
    FreeBits,
    InfoVae,
    Iwae,
    MatchedMoments,
    ScoreFunction,
    StickingTheLanding,
    Tvo,
    Vimco,
    WakeSleep,
)
from inference.data_plate import DataSize
from inference.evaluation import impute, inference_gaps, interpolations
from inference.evaluation.latent_code import LatentCode
from inference.runs import Run

from .test_scripts import call

B, Z, D = 16, 2, 5


def auxiliary() -> tuple[Any, Any]:
    """Return a pair whose guide draws u, of which z = tanh u is a function."""
    decoder, encoder = nn.Linear(Z, D), nn.Linear(D, 2 * Z)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc, log_scale.exp()).to_event(1)
            z = pyro.sample("u", base, infer={"is_auxiliary": True}).tanh()
            slope = (1 - z.square()).log().sum(-1)
            density: Any = -slope
            pyro.sample("z", dist.Delta(z, log_density=density, event_dim=1))

    return model, guide


def test_closed_form_leaves_what_has_none_to_the_draw() -> None:
    """z = tanh u is a flow: its log q is that of u less the slope, in either estimate of the KL."""
    model, guide = auxiliary()
    x = torch.randn(B, D)
    values: list[Tensor] = []
    for analytic in (False, True):
        pyro.set_rng_seed(4)
        values.append(Elbo(analytic_kl=analytic)(model, guide, x).loss)
    torch.testing.assert_close(*values)
    for objective in (FreeBits(), BetaTc(size=B), InfoVae()):
        with pytest.raises(ValueError, match=r"Site 'u' is in the guide alone \(is_auxiliary\)"):
            objective(model, guide, x)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoDelta, AutoStructured])
def test_closed_form_with_a_guide_that_pyro_makes(auto: Callable[[Any], Any]) -> None:
    """Of a Delta or an auxiliary site the draw is taken: both estimates are one there."""

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)

    guide, x = auto(model), torch.randn(B)
    guide(x)
    values: list[Tensor] = []
    for analytic in (False, True):
        pyro.set_rng_seed(5)
        with DataSize(B):
            values.append(Elbo(analytic_kl=analytic)(model, guide, x).loss)
    torch.testing.assert_close(*values)


LOCAL = (Iwae(3, Vimco()), Chi(), Tvo(), WakeSleep(), WakeSleep(phi="sleep"), BetaTc(size=B),
         InfoVae(), InfoVae(discrepancy=MatchedMoments()))  # fmt: skip
"""Objectives that need each datum's own terms."""


def at_a_point(shared: bool) -> tuple[Any, Any]:
    """Return a pair whose guide has a Delta at what parameters say: of each datum, or of all."""
    decoder, encoder = nn.Linear(Z, D), nn.Linear(D, Z)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        prior = dist.Normal(x.new_zeros(Z), 1.0).to_event(1)
        z = pyro.sample("z", prior) if shared else None
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior) if z is None else z
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        if shared:
            pyro.sample("z", dist.Delta(pyro.param("point", torch.zeros(Z)), event_dim=1))
        with pyro.plate("data", len(x)):
            value = encoder(x)
            if not shared:
                pyro.sample("z", dist.Delta(value, event_dim=1).mask(True))

    return model, guide


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "objective",
    [*(Elbo(2, ScoreFunction(each)) for each in ("none", "running mean", "input dependent")),
     Iwae(2, Vimco()), Chi(), Tvo(), WakeSleep(), WakeSleep(phi="sleep")],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_a_point_has_no_score_and_is_refused_where_one_is_needed(
    objective: Any, shared: bool
) -> None:
    model, guide = at_a_point(shared)
    x = torch.randn(B, D)
    with DataSize(B):
        assert Elbo()(model, guide, x).loss.requires_grad
        with pytest.raises(ValueError, match="Site 'z' is a Delta at what parameters say"):
            objective(model, guide, x)


@pytest.mark.parametrize("objective", LOCAL, ids=lambda each: type(each).__name__)
def test_objectives_of_single_data_refuse_what_all_share(objective: Any) -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu.expand(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(pyro.param("m", torch.zeros(())), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    with DataSize(B), pytest.raises(ValueError, match="Site 'mu' lies outside the data plate"):
        objective(model, guide, torch.randn(B, Z))


def test_doubly_reparametrised_takes_plates_left_of_the_data() -> None:
    """z_p ~ N(0, 1), x_p ~ N(z_p, 1), p = 1, 2, 3: at the posterior each draw's gradient is 0."""
    slope = torch.tensor(0.5, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("places", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        half = pyro.param("slope", slope)
        with pyro.plate("data", len(x), dim=-1), pyro.plate("places", 3, dim=-2):
            pyro.sample("z", dist.Normal(half * x.T, 0.5**0.5))

    x = torch.randn(B, 3)
    loss = Iwae(4, DoublyReparametrised())(model, guide, x).loss
    held: Any = pyro.get_param_store()["slope"]
    (gradient,) = torch.autograd.grad(loss, [held.unconstrained()])
    assert gradient.abs() < 1e-5


def bits() -> tuple[Any, Any]:
    """Return a pair whose code is three bits, which have no reparametrised draws."""
    decoder, encoder = nn.Linear(3, D), nn.Linear(D, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(3)).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1))

    return model, guide


def test_draws_without_a_gradient_are_refused_or_scored() -> None:
    model, guide = bits()
    x = torch.randn(B, D)
    for objective in (BetaTc(size=B), InfoVae()):
        with pytest.raises(ValueError, match="site 'z' has no reparametrised sampler"):
            objective(model, guide, x)
    assert FreeBits(2)(model, guide, x).loss.requires_grad  # its closed form, under the plate too


def test_all_bits_free_leave_the_reconstruction_alone() -> None:
    """With so many nats free no KL is left in the loss, in expectation, nor in its gradient.

    Of a class, whose KL has no factors: the exact gradient is that of Enumerate at beta 0, and each
    of 3 coordinates of 400 runs' mean is within 5 standard errors, wrong once in 300,000.
    """
    decoder, encoder = nn.Linear(3, D), nn.Linear(D, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(x.new_ones(3)))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.OneHotCategorical(logits=encoder(x)))

    pyro.set_rng_seed(0)
    x = torch.randn(4, D)

    def gradient(objective: Any) -> Tensor:
        return torch.autograd.grad(objective(model, guide, x).loss, [encoder.bias])[0]

    exact = gradient(Elbo(beta=0.0, estimator=Enumerate()))
    x = x.repeat(10, 1)  # ten draws for each datum in a run
    found = torch.stack([gradient(FreeBits(nats=100.0)) for _ in range(400)])
    z = (found.mean(0) - exact) / (found.std(0) / 400**0.5)
    assert z.abs().max() < 5


def test_info_vae_takes_single_numbers_and_refuses_plates_beside_the_data() -> None:
    def scalar(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def posterior(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("w", torch.tensor(0.5)) * x, 1.0))

    assert InfoVae()(scalar, posterior, torch.randn(B)).loss.isfinite()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("places", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.plate("places", 3, dim=-2):
            pyro.sample("z", dist.Normal(pyro.param("w", torch.tensor(0.5)) * x.T, 1.0))

    x = torch.randn(B, 3)
    for objective in (InfoVae(), InfoVae(discrepancy=MatchedMoments()), BetaTc(size=B)):
        with pytest.raises(ValueError, match=r"Site 'z' has batch shape \(3, 16\)"):
            objective(model, guide, x)
    assert interpolations(model, guide, x, steps=4)["x"].shape == (3, B // 2 * 4)
    with pytest.raises(ValueError, match="sits in plates beside the data's"):
        inference_gaps(model, guide, x, steps=1)


def mixture() -> tuple[Any, Any]:
    """Return a pair whose class only the model has, summed out, with p(z) apart from it."""
    means = torch.tensor([-2.0, 0.0, 2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            classes = dist.Categorical(x.new_ones(3))
            c = pyro.sample("c", classes, infer={"enumerate": "parallel"})
            at = z + means[c].unsqueeze(-1)
            pyro.sample("x", dist.Normal(at, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("w", torch.tensor(0.3)) * x, 0.5).to_event(1))

    return model, guide


def test_distortion_sums_out_what_the_model_alone_has() -> None:
    """Less the ELBO and the KL, by the same draw: -log sum_c p(c) p(x | z, c)."""
    model, guide = mixture()
    x = torch.randn(B, Z)
    found = LatentCode(model, guide, (x,))
    z = found.sites["z"].draw
    means = torch.tensor([-2.0, 0.0, 2.0])
    each = [dist.Normal(z + m, 1.0).to_event(1).log_prob(x) for m in means]
    expected = math.log(3) - torch.stack(each).logsumexp(0)
    torch.testing.assert_close(found.distortion, expected)
    with pytest.raises(ValueError, match="'c' is summed out of p"):
        impute(model, guide, x, torch.ones_like(x, dtype=torch.bool), particles=5)


def test_kl_of_a_prior_that_is_a_mixture() -> None:
    """z ~ N(m_c, 1), c summed out: log q - log sum_c p(c) N(z; m_c, 1) at the draw."""
    means = torch.tensor([-2.0, 0.0, 2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            classes = dist.Categorical(x.new_ones(3))
            c = pyro.sample("c", classes, infer={"enumerate": "parallel"})
            at = means[c].unsqueeze(-1).expand(-1, Z)
            z = pyro.sample("z", dist.Normal(at, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    _, guide = mixture()
    x = torch.randn(B, Z)
    found = LatentCode(model, guide, (x,))
    code = found.sites["z"]
    each = [dist.Normal(m, 1.0).log_prob(code.draw).sum(-1) for m in means]
    log_p = torch.stack(each).logsumexp(0) - math.log(3)
    torch.testing.assert_close(code.kl[:, 0], code.log_q - log_p)
    expected = -dist.Normal(code.draw, 1.0).to_event(1).log_prob(x)
    torch.testing.assert_close(found.distortion, expected)


def test_enumeration_takes_batches_with_and_without_labels() -> None:
    decoder, encoder = nn.Linear(3, D), nn.Linear(D, 3)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(x.new_ones(3)), obs=y)
            mean = decoder(nn.functional.one_hot(y, 3).to(x))
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        if y is None:
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(logits=encoder(x)))

    x, y = torch.randn(B, D), torch.arange(B) % 3
    elbo = Elbo(estimator=Enumerate())
    for batches in ((x, (x, y)), ((x, y), x)):
        for batch in batches:
            assert elbo(model, guide, batch).loss.isfinite()
    assert float(elbo(model, guide, (x, y)).kl) == 0.0


@pytest.mark.parametrize("particles", [1, 3])
def test_flow_without_an_inverse_is_named(particles: int) -> None:
    flow, encoder = T.planar(Z), nn.Linear(D, 2 * Z)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc, log_scale.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    x = torch.randn(B, D)
    assert Elbo(particles)(model, guide, x).loss.isfinite()
    with pytest.raises(ValueError, match=r"Site 'z': no density is known at a value that its"):
        Elbo(particles, StickingTheLanding())(model, guide, x)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_guide_that_sets_itself_up_has_one_name_for_each_tensor(auto: Callable[[Any], Any]) -> None:
    """Called before or not, so that a run of one process is loaded by another."""

    class Model(PyroModule):
        def forward(self, x: Tensor) -> None:
            p = pyro.sample("p", dist.Beta(torch.ones(D), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)

    x = torch.bernoulli(torch.full((B, D), 0.5))
    names: list[list[str]] = []
    for called in (False, True):
        pyro.clear_param_store()
        model = Model()
        guide = auto(model)
        if called:
            guide(x)
        svi = SVI(model, guide, data_size=B)
        svi.prepare(x)
        names.append([*svi.parameters])
    assert names[0] == names[1]


def test_code_of_no_datum_is_said() -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    with pytest.raises(ValueError, match="draws no latent site in the data plate"):
        LatentCode(model, AutoNormal(model), (torch.randn(B),))
    point = at_a_point(shared=False)
    with pytest.raises(ValueError, match="Site 'z' is a Delta: one point has no parameters"):
        inference_gaps(*point, torch.randn(B, D), steps=1)


GLOBAL = """
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule


class Model(PyroModule):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        p = pyro.sample("p", dist.Beta(torch.ones(self.shape), 1.0).to_event(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(p).to_event(3), obs=x)


def pair(shape):
    model = Model(shape)
    return model, AutoNormal(model)
"""


def test_run_of_an_autoguide_over_what_all_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From training to pictures by the commands: the weights of one are those of the other."""
    file = tmp_path / "shared.py"
    file.write_text(GLOBAL)
    run = tmp_path / "run"
    call("train", "--pair", file, "--data", "digits", "--epochs", 1, "--run", run, "--quiet")
    call("evaluate", run, "--particles", 3, "--repeats", 2)
    assert "Note: No diagnostics: The guide draws no latent site" in capsys.readouterr().out
    call("sample", run)
    call("train", "--resume", run, "--epochs", 2, "--quiet")
    found = Run(run)
    assert found.finished
    assert found.evaluation is not None
    assert found.evaluation["log_px_mc_se"] > 0
