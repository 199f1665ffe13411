"""The autoregressive likelihood: causality by autodiff, sums by enumeration, draws against them.

Statistical assertions are |z| < 4.5 for at most 64 frequencies each, wrong once in 2,200; the seeds
are fixed.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import models

Make = Callable[[tuple[int, ...]], models.Likelihood]

PIXELS: dict[str, Make] = {
    "Bernoulli": models.Bernoulli,
    "Binomial": partial(models.Binomial, total_count=2),
    "Categorical": partial(models.Categorical, levels=2),
    "DiscretisedLogistic": partial(models.DiscretisedLogistic, levels=2),
    "MixtureOfDiscretisedLogistics": partial(
        models.MixtureOfDiscretisedLogistics, components=2, levels=2
    ),
    "Normal": models.Normal,
    "NegativeBinomial": models.NegativeBinomial,
}


pytestmark = pytest.mark.usefixtures("in_doubles")


def make(event: tuple[int, ...], pixels: Make = models.Bernoulli, layers: int = 3) -> Any:
    """One whose parameters are large enough for pixels to depend on each other."""
    p = models.Autoregressive(event, pixels, 2, 6, layers, 3)
    with torch.no_grad():
        for parameter in p.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return p


def features(likelihood: models.Likelihood, *batch: int) -> Tensor:
    return torch.randn(*batch, *likelihood.parameter_shape)


def every(event: tuple[int, ...], values: Tensor) -> Tensor:
    """All images of these values, (N, *event)."""
    count = torch.Size(event).numel()
    return torch.cartesian_prod(*[values] * count).reshape(-1, *event)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ["Bernoulli", "Categorical"])
def test_pixels_see_those_before_them_alone(name: str, layers: int) -> None:
    """d parameters_i / d x_j is 0 for j >= i, and not 0 for the pixel to the left and above."""
    event = (2, 4, 5)
    p = make(event, PIXELS[name], layers)
    given = features(p)

    def parameters(x: Tensor) -> Tensor:
        return p.pixel_parameters(x, given).flatten(1).sum(0)  # by pixel: (20,)

    moved: Any = torch.autograd.functional.jacobian(parameters, torch.rand(event))
    depends = moved.flatten(-2).abs().sum(1) > 0  # pixel by pixel
    assert not depends.triu().any()
    for i, j in itertools.product(range(4), range(5)):
        row = depends[5 * i + j].reshape(4, 5)
        assert row[i, j - 1] or j == 0
        assert row[i - 1, j] or i == 0
        below = [[abs(j - b) <= layers and i - a <= layers for b in range(5)] for a in range(4)]
        assert not (row & ~torch.tensor(below)).any()  # as far as the docstring says


@pytest.mark.parametrize(
    ("name", "event", "largest", "scale"),
    [
        ("Bernoulli", (1, 2, 3), 1, 1.0),
        ("Bernoulli", (3, 2), 1, 1.0),
        ("Bernoulli", (2, 2, 2), 1, 1.0),
        ("Binomial", (1, 2, 3), 2, 1.0),
        ("Categorical", (2, 3), 2, 0.5),
        ("DiscretisedLogistic", (1, 2, 3), 2, 0.5),
        ("MixtureOfDiscretisedLogistics", (2, 1, 2), 2, 0.5),
    ],
)
def test_masses_of_all_images_sum_to_one(
    name: str, event: tuple[int, ...], largest: int, scale: float
) -> None:
    p = make(event, PIXELS[name])
    x = every(event, torch.arange(largest + 1.0) * scale)
    mass = p(features(p, 3, 1)).log_prob(x).exp()
    assert mass.shape == (3, len(x))
    torch.testing.assert_close(mass.sum(1), torch.ones(3), rtol=1e-10, atol=0)
    assert (mass.std(1) > 1e-6).all()


def test_density_is_the_product_of_the_pixels() -> None:
    """Each pixel's Bernoulli, from logits of an image in which later pixels are anything."""
    p = make((2, 3))
    given, x = features(p), torch.bernoulli(torch.full((2, 3), 0.5))
    total = torch.zeros(())
    for place in range(6):
        known = torch.where(torch.arange(6).reshape(2, 3) < place, x, torch.rand(2, 3))
        logits = p.pixel_parameters(known.reshape(1, 2, 3), given).flatten()
        total = total + dist.Bernoulli(logits=logits[place]).log_prob(x.flatten()[place])
    torch.testing.assert_close(p(given).log_prob(x), total)


@pytest.mark.parametrize("event", [(1, 2, 3), (3, 2), (2, 3, 1)], ids=str)
def test_draws_have_the_masses(event: tuple[int, ...]) -> None:
    """Frequencies of all 2^6 images in 20,000 draws."""
    p = make(event)
    p_x = p(features(p))
    x = every(event, torch.arange(2.0))
    mass = p_x.log_prob(x).exp()
    drawn = p_x.sample((20_000,)).flatten(1) @ 2.0 ** torch.arange(5, -1, -1.0)
    found = drawn.long().bincount(minlength=64) / 20_000
    assert ((found - mass) / (mass * (1 - mass) / 20_000).sqrt().clamp(min=1e-4)).abs().max() < 4.5


def test_draws_look_as_far_as_the_convolutions() -> None:
    """Pixels whose logits are +-1000 or more are what a whole pass says, on a larger image."""
    p = make((1, 9, 11))
    with torch.no_grad():
        p.out.weight *= 1e6
    p_x = p(features(p, 4))
    x = p_x.sample()
    logits = p.pixel_parameters(x, p_x.features)
    sure = logits.abs() > 1000
    assert sure.double().mean() > 0.99
    assert torch.equal((logits > 0)[sure], x.bool()[sure])


@pytest.mark.parametrize("name", PIXELS)
def test_particles_expansion_and_gradients(name: str) -> None:
    """K particles share the batch; every pixel's likelihood; learned parameters of its own too."""
    p = make((1, 3, 2), PIXELS[name])
    given = features(p, 4, 3)
    p_x: Any = p(given)
    assert (p_x.batch_shape, p_x.event_shape) == ((4, 3), (1, 3, 2))
    x = p_x.sample()[0]
    assert p_x.support.check(x).all()
    alone = torch.stack([p(each).log_prob(x) for each in given])
    torch.testing.assert_close(p_x.log_prob(x), alone)
    wide = p(given[0]).expand((4, 3))
    torch.testing.assert_close(wide.log_prob(x), alone[:1].expand(4, 3))
    assert wide.sample((2,)).shape == (2, 4, 3, 1, 3, 2)
    gradients = torch.autograd.grad(alone.sum(), list(p.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)
    with pytest.raises(NotImplementedError):
        _ = p_x.mean


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"event_shape": (12,)}, r"\(C, H, W\) or \(H, W\); got \(12,\). Take another likelihood"),
        ({"likelihood": models.Multinomial}, "independent elements.*; got Multinomial. Take Bern"),
        ({"likelihood": models.Autoregressive}, "independent elements.*; got Autoregressive"),
        ({"layers": 0}, "Expected layers of at least 1; got 0"),
        ({"channels": 0}, "Expected channels of at least 1; got 0"),
        ({"features": 0}, "Expected features of at least 1; got 0"),
        ({"kernel_size": 4}, "odd kernel_size of at least 3, such as 5; got 4"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.Autoregressive(**{"event_shape": (1, 4, 3), **arguments})
