"""What is counted as log p(x): scales, subsampled plates and sites that all data share."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import (
    SVI,
    BetaTc,
    Elbo,
    Enumerate,
    FreeBits,
    Iwae,
    KLWeight,
    ScoreFunction,
    Vimco,
    log_weights,
)
from inference.check import check
from inference.data import Dataset, Split
from inference.data_plate import DataSize
from inference.evaluation import evaluate
from inference.evaluation.validation import Validator
from inference.objectives import FromPyro
from inference.training import fit

B, Z = 6, 2


@pytest.fixture(autouse=True)
def _double() -> Any:
    """Closed forms are compared in double precision."""
    pyro.set_rng_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


Around = Callable[[], Any]
"""Makes the handler around a site."""


def nothing() -> Any:
    return poutine.scale(scale=1.0)


class Local(PyroModule):
    """z ~ N(0, 1), x ~ N(z, 1), or z ~ N(a x, s), each site inside a handler."""

    def __init__(self, x: Around = nothing, z: Around = nothing, q: Around = nothing) -> None:
        super().__init__()
        self.x, self.z, self.q = x, z, q
        self.a, self.s = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.7))
        self.plate: Callable[[Tensor], Any] = lambda x: pyro.plate("data", len(x))

    def model(self, x: Tensor) -> None:
        with self.plate(x):
            with self.z():
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            with self.x():
                pyro.sample("x", dist.Normal(z * self.s, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x), self.q():
            pyro.sample("z", dist.Normal(self.a * x, self.s.exp()).to_event(1))


def scale(value: Any) -> Around:
    return partial(poutine.scale, scale=value)


MASK: Any = torch.tensor([True, False, True, True, False, True])


@contextmanager
def _masked() -> Iterator[None]:
    with poutine.scale(scale=0.3), poutine.mask(mask=MASK):
        yield


SCALED: dict[str, Callable[[], Local]] = {
    "all": lambda: Local(scale(1e-3), scale(1e-3), scale(1e-3)),
    "observed": lambda: Local(scale(1 / 784)),
    "latent in both": lambda: Local(nothing, scale(0.25), scale(0.25)),
    "latent in the model": lambda: Local(nothing, scale(0.25)),
    "latent in the guide": lambda: Local(nothing, nothing, scale(4.0)),
    "a tensor": lambda: Local(scale(torch.tensor(0.1)), nothing, nothing),
    "a tensor by datum": lambda: Local(scale(torch.arange(1.0, B + 1)), nothing, nothing),
    "masked": lambda: Local(_masked, _masked, _masked),
    "twice": lambda: Local(lambda: poutine.scale(scale=3.0), scale(0.5), scale(0.5)),
    "none": Local,
}


def by_hand(pair: Local, x: Tensor, z: Tensor, masked: bool) -> Tensor:
    """Return the plain log p(x, z) - log q(z | x) of each datum, where masked of some only."""
    p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    likelihood = dist.Normal(z * pair.s, 1.0).log_prob(x).sum(-1)
    value = p + likelihood - dist.Normal(pair.a * x, pair.s.exp()).log_prob(z).sum(-1)
    return torch.where(MASK, value, 0.0) if masked else value


@pytest.mark.parametrize("name", SCALED)
def test_scale_acts_in_the_loss_alone_and_as_pyros(name: str) -> None:
    pair, x = SCALED[name](), torch.randn(B, Z)
    parameters = list(pair.parameters())
    pyro.set_rng_seed(1)
    loss = pyro.infer.Trace_ELBO().differentiable_loss(pair.model, pair.guide, x) / B
    expected = [loss, *torch.autograd.grad(loss, parameters)]
    pyro.set_rng_seed(1)
    found = Elbo()(pair.model, pair.guide, x)
    gradients = torch.autograd.grad(found.loss, parameters)
    torch.testing.assert_close([found.loss, *gradients], expected, rtol=1e-14, atol=1e-14)
    pyro.set_rng_seed(1)
    weights = log_weights(pair.model, pair.guide, x)
    plain = by_hand(pair, x, weights.draws["z"], name == "masked")
    torch.testing.assert_close(weights.total[0], plain)
    torch.testing.assert_close(found.bound, plain.mean())
    torch.testing.assert_close(found.bound, found.reconstruction - found.kl)


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("particles", [1, 3])
def test_scaled_pair_is_measured_as_the_plain_one(name: str, particles: int) -> None:
    if name == "masked" or (name == "a tensor by datum" and particles > 1):
        pytest.skip("a mask is part of the density; a scale of 6 data fits no repeated batch")
    pair, plain, x = SCALED[name](), Local(), torch.randn(B, Z)
    values = []
    for each in (pair, plain):
        split = Split(x)
        records = evaluate(each.model, each.guide, split, particles=particles)
        pyro.set_rng_seed(2)
        bound = Iwae(particles)(each.model, each.guide, x).bound
        values.append(
            [records.elbo, records.log_px, Validator(each.model, each.guide, split)()[:3]]
        )
        values[-1] += [bound]
    torch.testing.assert_close(*values)


def test_closed_form_kl_is_scaled_in_the_loss_alone() -> None:
    pair, plain, x = Local(nothing, scale(0.25), scale(0.25)), Local(), torch.randn(B, Z)
    found, whole = (Elbo(analytic_kl=True)(p.model, p.guide, x) for p in (pair, plain))
    torch.testing.assert_close(found.kl, whole.kl)
    torch.testing.assert_close(found.loss, 0.25 * found.kl - found.reconstruction)
    pyro.set_rng_seed(3)
    pyros = pyro.infer.TraceMeanField_ELBO().differentiable_loss(pair.model, pair.guide, x)
    pyro.set_rng_seed(3)
    loss = Elbo(analytic_kl=True)(pair.model, pair.guide, x).loss
    torch.testing.assert_close(loss, pyros / B)


@pytest.mark.parametrize("objective", [FreeBits(nats=3.0), BetaTc(size=B)], ids=["bits", "tc"])
def test_kl_in_parts_is_scaled_as_a_whole(objective: Any) -> None:
    """The loss is linear in the scale of the KL, and a pair without one scale is refused."""
    x, losses = torch.randn(B, Z), []
    for factor in (0.5, 1.0, 1.5):
        pair = Local(nothing, scale(factor), scale(factor))
        with _Held({"z": torch.ones(B, Z)}):
            losses.append(objective(pair.model, pair.guide, x).loss)
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])
    assert (losses[1] - losses[0]).abs() > 0.1
    for name in ("latent in the model", "latent in the guide"):
        pair = SCALED[name]()
        with pytest.raises(ValueError, match="Site 'z': this objective takes the KL apart"):
            objective(pair.model, pair.guide, x)


def test_free_bits_know_masks() -> None:
    """By hand: of each coordinate the mean KL over all data, 0 where it is masked."""
    pair, x = Local(q=_seen, z=_seen, x=_seen), torch.randn(B, Z)
    q = dist.Normal(pair.a * x, pair.s.exp())
    kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(Z), 1.0)) * MASK[:, None]
    with _Held({"z": torch.ones(B, Z)}):
        whole = Elbo(analytic_kl=True)(pair.model, pair.guide, x).loss
        found = FreeBits(analytic_kl=True, nats=2.0)(pair.model, pair.guide, x).loss
    torch.testing.assert_close(found - whole, (2.0 - kl.mean(0)).clamp(min=0).sum())


def _seen() -> Any:
    return poutine.mask(mask=MASK)


def test_kl_weight_and_scale_multiply_in_the_loss() -> None:
    pair, x = Local(nothing, scale(0.5), scale(0.5)), torch.randn(B, Z)
    with KLWeight(0.1):
        found = Elbo()(pair.model, pair.guide, x)
    torch.testing.assert_close(found.loss, 0.05 * found.kl - found.reconstruction)


@pytest.mark.parametrize("how", ["graph", "off"])
def test_captured_steps_take_the_scale(how: Any) -> None:
    pair, x = SCALED["latent in both"](), torch.randn(B, Z)
    svi = SVI(pair.model, pair.guide, compile=how)
    for _ in range(6):
        found = svi.step(x)
        torch.testing.assert_close(found.loss, 0.25 * found.kl - found.reconstruction)


class Bits(nn.Module):
    """z ~ Bernoulli(0.5), x ~ N(z + b, 1); q(z) = Bernoulli(sigmoid(a)); handlers around all."""

    def __init__(self, around: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.around, self.logit = around, nn.Parameter(torch.tensor(0.4))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), self.around(x):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), self.around(x):
            pyro.sample("z", dist.Bernoulli(logits=self.logit.expand(len(x))))

    def exact(self, x: Tensor, scale: float, seen: Tensor) -> Tensor:
        """Return the gradient of the mean of scale * seen * E_q [log p - log q] by the logit."""
        q = dist.Bernoulli(logits=self.logit.expand(len(x)))
        value = torch.zeros(len(x))
        for z in (0.0, 1.0):
            log_q = q.log_prob(torch.tensor(z))
            log_w = dist.Normal(2 * z - 1, 1.0).log_prob(x) + torch.tensor(0.5).log() - log_q
            value = value + log_q.exp() * log_w
        (gradient,) = torch.autograd.grad((scale * seen * value).mean(), self.logit)
        return gradient


HANDLERS: dict[str, tuple[Callable[[Tensor], Any], float]] = {
    "scale": (lambda _: poutine.scale(scale=0.1), 0.1),
    "mask": (lambda x: poutine.mask(mask=cast(Any, x > 0)), 1.0),
}
ESTIMATORS: dict[str, Callable[[], Elbo]] = {
    "default": lambda: Elbo(4),
    "none": lambda: Elbo(4, ScoreFunction("none")),
    "running mean": lambda: Elbo(4, ScoreFunction("running mean")),
    "leave one out": lambda: Elbo(4, ScoreFunction("leave one out")),
}


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_score_is_that_of_the_draw(handler: str, estimator: str) -> None:
    around, factor = HANDLERS[handler]
    x = torch.randn(4).repeat(5000)
    pair = Bits(around)
    seen = x > 0 if handler == "mask" else torch.ones_like(x)
    objective, found = ESTIMATORS[estimator](), []
    for _ in range(20):
        loss = objective(pair.model, pair.guide, x).loss
        found.append(-torch.autograd.grad(loss, pair.logit)[0])
    gradients = torch.stack(found)
    error = 5 * gradients.std() / 20**0.5 + 1e-3 * factor
    assert (gradients.mean() - pair.exact(x, factor, seen)).abs() < error


@pytest.mark.parametrize("handler", HANDLERS)
def test_enumeration_weighs_with_the_plain_chance(handler: str) -> None:
    around, factor = HANDLERS[handler]
    x, pair = torch.randn(7), Bits(around)
    seen = x > 0 if handler == "mask" else torch.ones_like(x)
    found = Elbo(estimator=Enumerate())(pair.model, pair.guide, x)
    gradient = torch.autograd.grad(-found.loss, pair.logit)[0]
    torch.testing.assert_close(gradient, pair.exact(x, factor, seen))
    torch.testing.assert_close(found.loss, -factor * found.bound)


def test_vimco_takes_the_plain_score() -> None:
    x, plain = torch.randn(4).repeat(5000), Bits(lambda _: poutine.scale(scale=1.0))
    pair = Bits(lambda _: poutine.mask(mask=cast(Any, torch.tensor(True))))
    gradients = []
    for each in (plain, pair):
        pyro.set_rng_seed(5)
        loss = Iwae(3, Vimco())(each.model, each.guide, x).loss
        gradients.append(torch.autograd.grad(loss, each.logit)[0])
    torch.testing.assert_close(*gradients)


# Subsampled plates of the data.

PLATES: dict[str, Callable[[Tensor], Any]] = {
    "subsample_size": lambda x: pyro.plate("data", 1000, subsample_size=len(x)),
    "subsample": lambda x: pyro.plate("data", 1000, subsample=torch.arange(len(x))),
    "dim": lambda x: pyro.plate("data", 1000, subsample_size=len(x), dim=-1),
}


@pytest.mark.parametrize("name", PLATES)
@pytest.mark.parametrize("around", ["none", "all", "a tensor", "latent in both"])
def test_subsampled_plate_is_as_the_plain_one(name: str, around: str) -> None:
    pair, plain, x = SCALED[around](), SCALED[around](), torch.randn(B, Z)
    pair.plate = PLATES[name]
    values = []
    z = torch.randn(B, Z)
    for each in (pair, plain):
        guide = poutine.condition(each.guide, data={})
        held = _Held({"z": z})
        with held:
            found = Elbo()(each.model, guide, x)
            gradient = torch.autograd.grad(found.loss, list(each.parameters()), allow_unused=True)
        values.append([*found, *(g for g in gradient if g is not None)])
    torch.testing.assert_close(*values)


class _Held(poutine.messenger.Messenger):
    """Draw what it is given."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["done"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@pytest.mark.parametrize("particles", [1, 3])
def test_subsampled_plate_evaluates_as_the_plain_one(particles: int) -> None:
    x, values = torch.randn(200, Z), []
    for plate in (PLATES["subsample"], lambda x: pyro.plate("data", len(x))):
        pair = Local()
        pair.plate = plate
        found = evaluate(pair.model, pair.guide, Split(x), particles=particles)
        values.append([found.elbo, found.log_px, Validator(pair.model, pair.guide, Split(x))()[:3]])
    torch.testing.assert_close(*values)


# Sites that all data share.


class Mean(PyroModule):
    """mu ~ N(0, 1), x_i ~ N(mu, 1), q(mu) = N(m, s)."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.log_s = nn.Parameter(torch.zeros(())), nn.Parameter(torch.tensor(-2.0))
        self.plate: Callable[[Tensor], Any] = lambda x: pyro.plate("data", len(x))

    def model(self, x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 1.0))
        with self.plate(x):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(self, _: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.m, self.log_s.exp()))


N = 1000
# Conjugate: the posterior's precision is N + 1.
SD = (N + 1) ** -0.5


def train(pair: Mean, batch_size: int, **options: Any) -> None:
    x = torch.randn(N) + 0.5
    svi = SVI(
        pair.model,
        pair.guide,
        partial(torch.optim.Adam, lr=0.02),
        objective=Elbo(analytic_kl=False, particles=8),
        compile="off",
        **options,
    )
    for step in range(1500):
        if step == 1000:
            svi.optimizer.param_groups[0]["lr"] = 0.003
        svi.step(x[torch.randperm(N)[:batch_size]])


@pytest.mark.parametrize("batch_size", [1, 50, 200])
def test_posterior_of_a_shared_site_does_not_know_the_batch_size(batch_size: int) -> None:
    """Its gradient by log s is 0 at the exact sd: here in closed form, at any batch."""
    pair = Mean()
    with torch.no_grad():
        pair.log_s.copy_(torch.tensor(SD).log())
    x = torch.randn(batch_size)
    with DataSize(N):
        # z = m + s e at e = 1 and -1, over which the mean of e^2 is that of N(0, 1).
        gradient = torch.zeros(())
        for e in (-1.0, 1.0):
            held = (pair.m + pair.log_s.exp() * e).expand(())
            with _Held({"mu": held}):
                loss = Elbo()(pair.model, pair.guide, x).loss
            gradient = gradient + torch.autograd.grad(loss, pair.log_s)[0]
    assert gradient.abs() < 1e-12


@pytest.mark.parametrize("batch_size", [50, 200])
def test_trained_posterior_has_the_exact_deviation(batch_size: int) -> None:
    pair = Mean()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*lies outside the data plate")
        train(pair, batch_size, data_size=N)
    assert pair.log_s.exp().item() == pytest.approx(SD, rel=0.05)


def test_fit_knows_the_number_of_data() -> None:
    pair, x = Mean(), torch.randn(N) + 0.5
    with torch.no_grad():
        pair.m.fill_(0.5)
        pair.log_s.fill_(-2.9)
    data = Dataset("normal", Split(x), Split(x[:100]), Split(x[:100]))
    svi = SVI(pair.model, pair.guide, partial(torch.optim.Adam, lr=0.004), Elbo(), compile="off")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*lies outside the data plate")
        trace = fit(svi, data, epochs=100, batch_size=50, show_progress=False)
    assert svi.data_size == N
    assert pair.log_s.exp().item() == pytest.approx(SD, rel=0.1)
    # The validation's KL is that of mu, shared between the training data, not the 100 valid ones.
    kl = torch.distributions.kl_divergence(
        dist.Normal(pair.m, pair.log_s.exp()), dist.Normal(torch.tensor(0.0), 1.0)
    )
    assert trace.split("valid")[-1].kl == pytest.approx(kl.item() / N, rel=0.5)


def test_plate_that_says_the_number_of_data_is_believed() -> None:
    pair, plain, x = Mean(), Mean(), torch.randn(50)
    pair.plate = PLATES["subsample"]
    with _Held({"mu": torch.tensor(0.3)}):
        found = Elbo()(pair.model, pair.guide, x)
        with DataSize(N):
            expected = Elbo()(plain.model, plain.guide, x)
    torch.testing.assert_close(list(found), list(expected))
    loss = pyro.infer.Trace_ELBO().differentiable_loss
    with _Held({"mu": torch.tensor(0.3)}):
        torch.testing.assert_close(found.loss, loss(pair.model, pair.guide, x) / N)


def test_shared_site_without_a_number_of_data_is_said_once() -> None:
    pair = Mean()
    svi = SVI(pair.model, pair.guide, compile="off")
    with pytest.warns(UserWarning, match=r"Site 'mu' lies outside.*SVI\(\.\.\., data_size=N\)"):
        svi.step(torch.randn(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.step(torch.randn(20))
    with pytest.raises(ValueError, match="at least 1 training datum; got data_size 0"):
        SVI(pair.model, pair.guide, data_size=0)


ELBOS: dict[str, Callable[[], Any]] = {
    "Trace_ELBO": pyro.infer.Trace_ELBO,
    "TraceMeanField_ELBO": pyro.infer.TraceMeanField_ELBO,
    "TraceGraph_ELBO": pyro.infer.TraceGraph_ELBO,
}


@pytest.mark.parametrize("name", ELBOS)
def test_elbo_of_pyro_is_shared_and_unscaled_alike(name: str) -> None:
    x = torch.randn(20, Z)
    for make in (Local, SCALED["all"], SCALED["latent in both"]):
        pair = make()
        with _Held({"z": torch.randn(20, Z)}):
            # At a held draw TraceGraph_ELBO and Trace_ELBO have the value of one particle.
            found = FromPyro(ELBOS[name]())(pair.model, pair.guide, x)
            whole = Elbo(analytic_kl="Mean" in name)(pair.model, pair.guide, x)
        torch.testing.assert_close(found.bound, whole.bound)
        if name != "TraceGraph_ELBO":
            torch.testing.assert_close(found.loss, whole.loss)
    shared = Mean()
    values = []
    for plate in (lambda x: pyro.plate("data", len(x)), PLATES["subsample"]):
        shared.plate = plate
        with _Held({"mu": torch.tensor(0.3)}), DataSize(N):
            values.append(FromPyro(ELBOS[name]())(shared.model, shared.guide, x[:, 0]).bound)
            whole = Elbo(analytic_kl="Mean" in name)(shared.model, shared.guide, x[:, 0])
    torch.testing.assert_close(values, [whole.bound] * 2)


@pytest.mark.parametrize("how", ["graph", "off"])
def test_captured_steps_share_by_the_number_of_data(how: Any) -> None:
    pair, x = Mean(), torch.randn(20)
    svi = SVI(pair.model, pair.guide, compile=how, data_size=N)
    svi.step(x)
    svi.data_size = 2 * N
    for _ in range(5):
        before = pair.m.item(), pair.log_s.exp().item()
        found = svi.step(x)
        draws = (before[0] + 6 * before[1] * torch.linspace(-1, 1, 2)).abs().max()
        assert found.kl.abs() < (0.5 * draws**2 + 40) / (2 * N)


class Plated(PyroModule):
    """Global weights in plates of their own, beside z of each datum."""

    def __init__(self, plates: list[int], size: int = B) -> None:
        super().__init__()
        self.plates, self.a = plates, nn.Parameter(torch.tensor(0.2))

    def weights(self, loc: Tensor) -> Tensor:
        with _nested(self.plates):
            return pyro.sample("w", dist.Normal(loc.expand(self.plates[::-1]), 1.0))

    def model(self, x: Tensor) -> None:
        w = self.weights(torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + w.mean(), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        self.weights(self.a)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a * x, 1.0).to_event(1))


@contextmanager
def _nested(sizes: list[int]) -> Iterator[None]:
    with ExitStack() as stack:
        for i, size in enumerate(sizes):
            stack.enter_context(pyro.plate(f"topics_{i}", size, dim=-1 - i))
        yield


@pytest.mark.parametrize("plates", [[3], [B], [3, 4], [B, 2], [2, B], [B, B]], ids=str)
@pytest.mark.parametrize("particles", [1, 3])
def test_plates_of_their_own_are_summed_as_pyro_sums_them(
    plates: list[int], particles: int
) -> None:
    pair, x = Plated(plates), torch.randn(B, Z)
    if particles == 1:
        pyro.set_rng_seed(1)
        expected = pyro.infer.Trace_ELBO().differentiable_loss(pair.model, pair.guide, x) / B
        pyro.set_rng_seed(1)
        torch.testing.assert_close(Elbo()(pair.model, pair.guide, x).loss, expected)
    w, z = torch.randn(plates[::-1]), torch.randn(B, Z)
    with warnings.catch_warnings(), _Held({"w": w, "z": z}) if particles == 1 else nullcontext():
        warnings.filterwarnings("ignore", "The pair cannot carry a particle")
        with DataSize(N):
            weights = log_weights(pair.model, pair.guide, x, particles)
    assert weights.outside == {"w"}
    assert weights.prior["w"].shape[1] == 1
    w = weights.draws["w"]
    per_particle = w.reshape(-1, w.numel() // len(weights.prior["w"]))
    expected = dist.Normal(0.0, 1.0).log_prob(per_particle).sum(-1, keepdim=True)
    torch.testing.assert_close(weights.prior["w"], expected)
    with pytest.raises(ValueError, match="Site 'w' lies outside the data plate"):
        weights.total  # noqa: B018


def test_subsampled_plate_of_a_datums_own_estimates_the_sum() -> None:
    """Of 12 words of a datum 3 are seen: their terms count 4 times, as Pyro counts them."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("words", 12, subsample=torch.arange(3)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    x = torch.randn(5, 3)
    weights = log_weights(model, guide, x)
    z = weights.draws["z"]
    expected = 4 * dist.Normal(z, 1.0).log_prob(x.T).sum(0)
    torch.testing.assert_close(weights.total[0], expected)


def test_site_in_the_data_plate_of_one_half_only_is_refused() -> None:
    pair = Mean()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("mu", dist.Normal(pair.m, 1.0))

    with pytest.raises(ValueError, match="Site 'mu' is in the data plate in one of model and"):
        log_weights(pair.model, guide, torch.randn(4))


def test_data_in_no_plate_of_the_batch_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x.mean(0))

    with pytest.raises(ValueError, match=r"Expected a log density of shape \(1, 1\) at site 'x'"):
        log_weights(model, lambda _: None, torch.randn(4, 3))


def test_latent_site_of_the_model_alone_is_refused() -> None:
    """An ``obs_mask`` makes one, and so does a class that nobody infers."""

    def masked(x: Tensor) -> None:
        seen: Any = torch.arange(len(x)) > 1
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x, obs_mask=seen)

    def classes(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(c.to(x), 1.0), obs=x)

    x = torch.randn(4)
    for model, name in ((masked, "x_unobserved"), (classes, "c")):
        for ask in (
            lambda model=model: log_weights(model, lambda _: None, x),
            lambda model=model: Elbo()(model, lambda _: None, x),
            lambda model=model: evaluate(model, lambda _: None, Split(x), particles=2),
        ):
            with pytest.raises(ValueError, match=f"Site '{name}' is latent in the model, and the"):
                ask()


def test_noise_of_one_draw_is_not_known() -> None:
    pair, x = Local(), torch.randn(B, Z)
    found = evaluate(pair.model, pair.guide, Split(x), particles=1, repeats=1)
    assert found.log_px_mc_se.isnan().all()
    assert found.summary()["log_px_mc_se"] is None
    for particles, repeats in ((2, 1), (1, 2)):
        found = evaluate(pair.model, pair.guide, Split(x), particles=particles, repeats=repeats)
        assert (found.log_px_mc_se > 0).all()


@pytest.mark.parametrize(("particles", "repeats"), [(1, 1), (50, 1), (3, 4)])
def test_evaluation_of_a_shared_site_is_exact_at_its_posterior(
    particles: int, repeats: int
) -> None:
    r"""x_i ~ N(mu, 1), mu ~ N(0, 1): log p(x_{1:N}) whatever mu is drawn, in any number of slices.

    log p(x_{1:N}) = log N(x; 0, I + 11^T), and p(mu | x) = N(sum x / (N + 1), 1 / (N + 1)).
    """
    count = 3000  # more than the data of a pass
    x = 0.7 + torch.randn(count, dtype=torch.float64)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    posterior = x.sum() / (count + 1), (1 / torch.tensor(count + 1.0, dtype=x.dtype)).sqrt()

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(*posterior))

    exact = -0.5 * (
        count * math.log(2 * math.pi)
        + math.log(count + 1)
        + x.square().sum()
        - x.sum().square() / (count + 1)
    )
    split = Split(x.float())
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The pair cannot carry")
        found = evaluate(
            model,
            guide,
            split,
            particles=particles,
            repeats=repeats,
            data_size=count,
            show_progress=False,
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert found.shared == ("mu",)
    for bound in (found.elbo, found.log_px):
        assert float(bound.mean()) == pytest.approx(float(exact) / count, abs=2e-5)
    with pytest.raises(ValueError, match=r"'mu' lies outside the data plate.*data_size=len"):
        evaluate(model, guide, split, show_progress=False)


def test_error_of_a_shared_draw_is_in_that_of_the_mean() -> None:
    r"""x_i ~ N(mu, 1), mu ~ N(0, 1), and a guide with the posterior's mean and c times its sd.

    log p(x, mu) - log q(mu) is then a constant less (c^2 - 1) e^2 / 2 with e ~ N(0, 1), of variance
    (c^2 - 1)^2 / 2. The estimate of it by 400 draws has a relative standard error of sqrt(14 / 400)
    for e^2 has a kurtosis of 15; 4 of them fail for a right estimate once in 15,000.
    """
    count, c, repeats = 100, 2.0, 400
    x = 0.7 + torch.randn(count)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    posterior = x.sum() / (count + 1), 1 / math.sqrt(count + 1)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(posterior[0], c * posterior[1]))

    def measured(repeats: int) -> dict[str, Any]:
        found = evaluate(
            model, guide, Split(x), particles=1, repeats=repeats, data_size=count,
            show_progress=False,
        )  # fmt: skip
        return found.summary()

    variance = (measured(repeats)["log_px_mc_se"] * count) ** 2 * repeats
    exact = (c**2 - 1) ** 2 / 2
    assert abs(variance / exact - 1) < 4 * math.sqrt(14 / repeats)
    assert measured(1)["log_px_mc_se"] is None


@pytest.mark.parametrize("anchors", [B - 1, B, B + 1])
@pytest.mark.parametrize("batch_size", [B, 2 * B])
def test_data_of_another_plate_are_shared_whatever_their_number(
    anchors: int, batch_size: int
) -> None:
    """Values of mu observed beside the data, as many as the batch or not: by hand, at any batch."""
    known = torch.linspace(-1, 3, anchors)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("anchors", anchors):
            pyro.sample("anchor", dist.Normal(mu, 1.0), obs=known)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.0, 0.1))

    x, mu = torch.randn(batch_size), torch.tensor(0.3)
    with DataSize(N), _Held({"mu": mu}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The pair cannot carry")
        found = Elbo()(model, guide, x)
    shared = dist.Normal(mu, 1.0).log_prob(known).sum() + dist.Normal(0.0, 1.0).log_prob(mu)
    shared = shared - dist.Normal(0.0, 0.1).log_prob(mu)
    expected = dist.Normal(mu, 1.0).log_prob(x).mean() + shared / N
    torch.testing.assert_close(found.bound, expected)
    said = map(str, check(model, guide, x))
    assert not [each for each in said if "order" in each or "No data" in each]
