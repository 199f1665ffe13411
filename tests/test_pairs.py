"""Invariants that hold for every pair of the table."""

import copy
import itertools
import warnings
from collections.abc import Iterator

import pyro
import pyro.infer
import pytest
import torch
from torch import nn

from inference import SVI, Elbo, KLWeight, log_weights
from inference.check import check
from inference.data import AsIs, Split
from inference.evaluation import encode, evaluate, prior_samples, reconstructions
from inference.programs import as_tuple, tile
from inference.stores import param_store

from .pairs import PAIRS, Pair, rows


@pytest.fixture(params=rows(PAIRS), ids=lambda name: name.replace(" ", "-"))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The pair cannot carry")
        yield PAIRS[request.param]()


def parameters(pair: Pair) -> dict[str, torch.Tensor]:
    svi = SVI(pair.model, pair.guide)
    svi.prepare(pair.x)
    return svi.parameters


def tuple_of(x: object) -> tuple[torch.Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)  # type: ignore[return-value]


def size(pair: Pair) -> int:
    return len(tuple_of(pair.x)[0])


def test_check_finds_nothing(pair: Pair) -> None:
    assert check(pair.model, pair.guide, pair.x) == []


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_elbo_has_the_loss_and_gradients_of_trace_elbo(
    pair: Pair, particles: int, weight: float
) -> None:
    if particles > 1 and not pair.carries_particles:
        pytest.skip("Pyro's vectorised particles need a pair that carries them")
    named = parameters(pair)
    elbo = pyro.infer.Trace_ELBO(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
    )
    with KLWeight(weight):
        pyro.set_rng_seed(3)
        mine = Elbo(particles)(pair.model, pair.guide, pair.x).loss
        pyro.set_rng_seed(3)
        with param_store(pair.model):
            theirs = elbo.differentiable_loss(pair.model, pair.guide, *tuple_of(pair.x))
        theirs = theirs / size(pair)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
    gradients = [
        torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for loss in (mine, theirs)
    ]
    for name, a, b in zip(named, *gradients, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_bound_is_not_weighted(pair: Pair, weight: float) -> None:
    pyro.set_rng_seed(3)
    plain = Elbo()(pair.model, pair.guide, pair.x)
    pyro.set_rng_seed(3)
    with KLWeight(weight):
        weighted = Elbo()(pair.model, pair.guide, pair.x)
    rounding = 1e-6 * (10 + plain.bound.abs().item())  # the parts are differences of sums so large
    torch.testing.assert_close(plain[1:], weighted[1:], rtol=1e-5, atol=rounding)
    assert plain.bound.item() == pytest.approx(-plain.loss.item(), rel=1e-6, abs=1e-6)
    expected = -weighted.reconstruction + weight * weighted.kl
    assert weighted.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


def test_log_weights_have_a_row_a_particle(pair: Pair) -> None:
    if not pair.local:
        with pytest.raises(ValueError, match=r"Site 'w' lies outside the data plate.*Elbo"):
            _ = log_weights(pair.model, pair.guide, pair.x, 3).total
        return
    for particles in (1, 3):
        weights = log_weights(pair.model, pair.guide, pair.x, particles)
        assert weights.total.shape == (particles, size(pair))
        for part in (weights.likelihood, weights.prior, weights.guide):
            assert all(value.shape == (particles, size(pair)) for value in part.values())
        joint = weights.reconstruction - weights.kl
        torch.testing.assert_close(weights.total, joint)


def test_particles_are_independent_draws_of_the_same_weights(pair: Pair) -> None:
    """|z| < 4.5 for the mean of each of <= 6 data: wrong once in 1,100 runs of a table of 23."""
    if not pair.local:
        pytest.skip("a global site has no weights of single data")
    with torch.no_grad():
        many = log_weights(pair.model, pair.guide, pair.x, 2000).total
        x = tile(as_tuple(pair.x), 10)  # each datum ten times, a draw for each
        alone = [log_weights(pair.model, pair.guide, x).total for _ in range(100)]
        ones = torch.cat(alone).reshape(1000, size(pair))
    se = (many.var(0) / len(many) + ones.var(0) / len(ones)).sqrt()
    assert ((many.mean(0) - ones.mean(0)) / se).abs().max() < 4.5


def test_pair_that_cannot_carry_particles_says_so_once() -> None:
    pair = PAIRS["flat"]()
    with pytest.warns(UserWarning, match=r"cannot carry a particle dimension.*same result"):
        log_weights(pair.model, pair.guide, pair.x, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_weights(pair.model, pair.guide, pair.x, 3)


def test_first_use_of_particles_leaves_the_random_state_alone(pair: Pair) -> None:
    draws = []
    for _ in range(2):  # the trial of the pair happens in the first round only
        pyro.set_rng_seed(5)
        draws.append(Elbo(3)(pair.model, pair.guide, pair.x).bound.item())
    assert draws[0] == draws[1]


def test_steps_raise_the_elbo(pair: Pair) -> None:
    svi = SVI(
        pair.model, pair.guide, lambda p: torch.optim.Adam(p, lr=0.02), objective=Elbo(particles=8)
    )
    before = svi.evaluate(pair.x, Elbo(200)).bound
    for _ in range(60):
        svi.step(pair.x)
    assert svi.evaluate(pair.x, Elbo(200)).bound > before + 0.02


def test_step_reads_no_value_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each of these would wait for the device."""
    svi = SVI(pair.model, pair.guide, clip_norm=1.0)
    svi.step(pair.x)
    read = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, *a, n=name, o=original: (read.append(n), o(t, *a))[1]
        )
    svi.step(pair.x, kl_weight=0.5)
    assert read == []


def test_evaluate_changes_nothing(pair: Pair) -> None:
    svi = SVI(pair.model, pair.guide)
    svi.step(pair.x)
    before = svi.state_dict()
    svi.evaluate(pair.x)
    after = svi.state_dict()
    for name, value in before["weights"].items():
        assert torch.equal(value, after["weights"][name])


def test_weights_survive_a_round_trip(pair: Pair) -> None:
    svi = SVI(pair.model, pair.guide)
    for _ in range(3):
        svi.step(pair.x)
    state = copy.deepcopy(svi.state_dict())
    pyro.set_rng_seed(9)
    expected = [svi.step(pair.x).bound.item() for _ in range(3)]
    svi.load_state_dict(state)
    pyro.set_rng_seed(9)
    assert [svi.step(pair.x).bound.item() for _ in range(3)] == expected


def test_generation(pair: Pair) -> None:
    sites = prior_samples(pair.model, pair.x)
    x = tuple_of(pair.x)[0]
    assert sites.keys() == {"x"}
    assert sites["x"].shape == x.shape
    assert reconstructions(pair.model, pair.guide, pair.x)["x"].shape == x.shape
    assert any(name.startswith("z") for name in encode(pair.model, pair.guide, pair.x))


def test_bound_rises_with_particles(pair: Pair) -> None:
    """L_1 <= L_5 <= L_50: |z| < 4 for each step, over independent repeats."""
    if not pair.local or isinstance(pair.x, tuple):
        pytest.skip("needs log weights of single data and a plain batch")
    split = Split(pair.x.repeat(200, *[1] * (pair.x.dim() - 1)), AsIs())
    bounds = [
        evaluate(pair.model, pair.guide, split, particles=k, seed=k, show_progress=False).log_px
        for k in (1, 5, 50)
    ]
    for low, high in itertools.pairwise(bounds):
        difference = (high - low).unflatten(0, (200, -1)).mean(1)  # repeats of the same data
        assert difference.mean() > -4 * difference.std() / 200**0.5


def test_dropout_and_batch_norm_are_off_in_evaluation() -> None:
    pair = PAIRS["bernoulli"]()
    noisy = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 4))
    pair.guide.encoder = noisy
    svi = SVI(pair.model, pair.guide)
    svi.step(pair.x)
    buffers = {k: v.clone() for k, v in noisy.named_buffers()}
    values = []
    for _ in range(2):
        pyro.set_rng_seed(1)
        values.append(svi.evaluate(pair.x).bound.item())
    assert values[0] == values[1]
    assert noisy.training
    assert all(torch.equal(v, buffers[k]) for k, v in noisy.named_buffers())
    assert check(pair.model, pair.guide, pair.x) == []
