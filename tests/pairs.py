"""The table of pairs: every invariant of tests/test_pairs.py runs over each of them."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

import guides
import models

EVENT = (1, 4, 3)
LATENT = 2


class Pair(NamedTuple):
    """A pair, a batch for it, and what it can do."""

    model: Any
    guide: Any
    x: Any
    carries_particles: bool = True
    local: bool = True
    captures: bool = True


encoder, decoder = partial(guides.MLP, hidden=[8]), partial(models.MLP, hidden=[8])


def vae(
    likelihood: Callable[[tuple[int, ...]], models.Likelihood],
    x: Tensor,
    prior: Callable[[int], models.Prior] = models.StandardNormal,
    posterior: Callable[[int], guides.Family] = guides.DiagonalNormal,
    amortization: Callable[[nn.Module, guides.Family], guides.Amortized] = guides.Amortized,
    encoder: Callable[[tuple[int, ...], int], guides.Encoder] = encoder,
    decoder: Callable[[int, tuple[int, ...]], models.Decoder] = decoder,
) -> Pair:
    p_x, p_z, family = likelihood(EVENT), prior(LATENT), posterior(LATENT)
    guide = amortization(encoder(EVENT, family.parameter_dim), family)
    p_z.given(guide.posterior, lambda count: x[:count])
    model = models.VAE(p_z, decoder(LATENT * family.numbers, p_x.parameter_shape), p_x)
    guide.given(model)
    return Pair(model, guide, x)


def bits(size: int = 6) -> Tensor:
    return torch.bernoulli(torch.full((size, *EVENT), 0.4))


def levels(largest: int = 255) -> Tensor:
    return torch.randint(0, largest + 1, (6, *EVENT)) / largest


def counts() -> Tensor:
    return torch.poisson(torch.full((6, *EVENT), 2.0))


def functions() -> Pair:
    """Plain functions that make their parameters with pyro.param and pyro.module."""
    decoder, encoder = nn.Linear(LATENT, 12), nn.Linear(12, LATENT)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param("prior_scale", torch.ones(LATENT), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", torch.ones(LATENT), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), scale).to_event(1))

    return Pair(model, guide, bits().flatten(1))


class _Methods(nn.Module):
    """Model and guide as two methods of one module, as in Pyro's own VAE example."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(LATENT, 12), nn.Linear(12, 2 * LATENT)

    def model(self, x: Tensor) -> None:
        pyro.module("methods.decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("methods.encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def methods() -> Pair:
    both = _Methods()
    return Pair(both.model, both.guide, bits().flatten(1))


class _ParamModel(PyroModule):
    """PyroParam attributes, and a raw pyro.param inside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.ones(12), constraint=dist.constraints.positive)
        self.weight = nn.Parameter(torch.randn(LATENT, 12))

    def forward(self, x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(12))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            scale: Any = self.scale
            pyro.sample("x", dist.Normal(z @ self.weight + shift, scale).to_event(1), obs=x)


class _ParamGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.width = PyroParam(torch.ones(LATENT), constraint=dist.constraints.positive)
        linear: Any = PyroModule[nn.Linear]
        self.linear = linear(12, LATENT)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            width: Any = self.width
            pyro.sample("z", dist.Normal(self.linear(x), width).to_event(1))


def pyro_params() -> Pair:
    return Pair(_ParamModel(), _ParamGuide(), torch.randn(6, 12))


class _DiscreteModel(PyroModule):
    """A binary vector and a real number, the one without a reparametrised sampler."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            logits = self.net(torch.cat([b, z.expand(*b.shape[:-1], 1)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class _DiscreteGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> None:
        out = self.net(x)
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=out[:, :3]).to_event(1))
            pyro.sample("z", dist.Normal(out[:, 3:4], out[:, 4:].exp()).to_event(1))


def discrete() -> Pair:
    return Pair(_DiscreteModel(), _DiscreteGuide(), bits().flatten(1))


class _FlatModel(PyroModule):
    """Code that can't carry a particle dimension: it indexes the batch's axis by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(LATENT + 1, 12)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            z = torch.cat([z, z[:, :1] * z[:, 1:]], dim=1)
            pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)


def flat() -> Pair:
    guide = guides.Amortized(nn.Linear(12, 2 * LATENT), guides.DiagonalNormal(LATENT))
    return Pair(_FlatModel(), guide, bits().flatten(1), carries_particles=False)


def shared_weight() -> Pair:
    """A global latent site, outside the data plate."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("w_loc", torch.tensor(0.3))
        slope = pyro.param("slope", torch.tensor(0.7))
        pyro.sample("w", dist.Normal(loc, 0.4))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.5))

    return Pair(model, guide, torch.randn(6), carries_particles=False, local=False)


class _Layers(PyroModule):
    """A positive number, a vector, and a vector that follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(LATENT, 12)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(2.0, 2.0)).unsqueeze(-1)
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), s).to_event(1))
            w = pyro.sample("w", dist.Normal(z, 0.5).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.net(w)).to_event(1), obs=x)


def auto_layers() -> Pair:
    x = bits().flatten(1)
    model = _Layers()
    return Pair(model, guides.AutoAmortized(model, partial(guides.MLP, hidden=[8]), x, hidden=8), x)


class _M2(PyroModule):
    """A label, a vector, and both make x; the batch (x, y) has y = -1 where it is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.means, self.net = nn.Embedding(3, 12), nn.Linear(LATENT, 12)

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            label = pyro.sample("label", dist.Categorical(logits=torch.zeros(3)))
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            logits = self.net(z) + self.means(label)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def auto_semi_supervised() -> Pair:
    batch = bits().flatten(1), torch.tensor([0, 1, 2, -1, -1, -1])
    model = _M2()
    guide = guides.AutoAmortized(
        model, partial(guides.MLP, hidden=[8]), batch, hidden=8, known={"label": 1}
    )
    return Pair(model, guide, batch)


def layered(top_down: bool) -> Pair:
    """Two stochastic layers, x sees both; inferred from below, or as a ladder."""
    p_x, here, above = models.Bernoulli(EVENT), LATENT, 1
    layer = nn.Sequential(models.MLP(above, (2, here), [4]), models.HeteroscedasticNormal((here,)))
    decoder = models.MLP(here + above, p_x.parameter_shape, [8])
    prior = models.StandardNormal(above)
    model = models.Hierarchical(prior, [layer], decoder, p_x, skip=True)
    encoder = guides.MLP(EVENT, 2 * here, [8])
    low, high = guides.DiagonalNormal(here), guides.DiagonalNormal(above)
    if not top_down:
        upper = nn.Sequential(nn.Linear(here, 2 * above), high)
        return Pair(model, guides.BottomUp([nn.Sequential(encoder, low), upper]), bits())
    heads = [nn.Sequential(low), nn.Sequential(nn.Linear(4, 2 * above), high)]
    steps = [encoder, nn.Sequential(nn.ReLU(), nn.Linear(2 * here, 4), nn.Tanh())]
    return Pair(model, guides.Ladder(steps, heads, [layer]), bits())


def bits_in_layers() -> Pair:
    """A sigmoid belief network of two layers, inferred from below."""
    p_x, here, above = models.Bernoulli(EVENT), LATENT, 3
    down = nn.Sequential(nn.Linear(above, here), models.Bernoulli((here,)))
    decoder = models.MLP(here, p_x.parameter_shape, [8])
    model = models.Hierarchical(models.LearnedBernoulli(above), [down], decoder, p_x)
    low = nn.Sequential(guides.MLP(EVENT, here, [8]), guides.Bernoulli(here))
    high = nn.Sequential(nn.Linear(here, above), guides.Bernoulli(above))
    return Pair(model, guides.BottomUp([low, high]), bits())


def labelled(semi: bool, classes: int = 3) -> Pair:
    """Labels in the batch: all of them, or some, and -1."""
    p_x, family = models.Bernoulli(EVENT), guides.DiagonalNormal(LATENT)
    decoder = models.MLP(LATENT + classes, p_x.parameter_shape, [8])
    encoder, head = guides.MLP(EVENT, 4, [8]), nn.Linear(4 + classes, family.parameter_dim)
    x, y = bits(), torch.arange(6) % classes
    if not semi:
        prior = models.ClassMeans(classes, LATENT)
        model = models.Conditional(prior, decoder, p_x, classes)
        return Pair(model, guides.Conditional(encoder, head, family, classes), (x, y))
    prior = models.LabelFree(models.LearnedNormal(LATENT))
    model = models.SemiSupervised(prior, decoder, p_x, classes)
    classifier = guides.MLP(EVENT, classes, [8])
    guide = guides.SemiSupervised(classifier, encoder, head, family, classes, alpha=0.5)
    return Pair(model, guide, (x, torch.tensor([0, -1, 2, -1, -1, 1])))


def sequence(flow: bool = False, lengths: bool = True) -> Pair:
    """Two steps of six bits, some sequences of one; the guide may have a flow."""
    p_x, family = models.Bernoulli((6,)), guides.DiagonalNormal(LATENT)
    transition = models.GatedTransition(LATENT, 4)
    emitter = models.MLP(LATENT, p_x.parameter_shape, [4])
    model = models.DeepMarkov(models.LearnedNormal(LATENT), transition, emitter, p_x)
    combiner = guides.Combiner(LATENT, 4, family.parameter_dim)
    steps = [affine_autoregressive(LATENT, [4])] if flow else []
    guide = guides.DeepMarkov(guides.BackwardGRU(6, 4), combiner, family, steps)
    x = bits().reshape(6, 1, 2, 6)
    return Pair(model, guide, (x, torch.tensor([2, 1, 1, 2, 2, 2])) if lengths else x)


PRIORS: dict[str, Callable[[int], models.Prior]] = {
    "learned normal": models.LearnedNormal,
    "laplace": models.StandardLaplace,
    "student-t": models.StandardStudentT,
    "mixture": partial(models.MixtureOfNormals, components=3),
    "vamp": partial(models.Vamp, components=4),
    "vamp of data": partial(models.Vamp, components=4, learn=False),
    "coupling flow": partial(models.CouplingFlow, steps=2, hidden=[8]),
    "spline flow": partial(models.SplineFlow, steps=1, hidden=[8]),
    "autoregressive flow": partial(models.AutoregressiveFlow, hidden=[8]),
    "resampled": partial(models.ResampledNormal, truncation=10, hidden=[8], points=4096),
}

FAMILIES: dict[str, Callable[[int], guides.Family]] = {
    "full normal": guides.FullNormal,
    "low rank normal": partial(guides.LowRankNormal, rank=1),
    "mixture": partial(guides.MixtureOfNormals, components=2),
    "householder": partial(guides.Householder, steps=2),
    "rank-one exponential": partial(guides.RankOneExponential, steps=2),
    "planar": partial(guides.Planar, steps=2),
    "planar shared": partial(guides.Planar, steps=2, amortised=False),
    "radial": partial(guides.Radial, steps=2),
    "sylvester": partial(guides.Sylvester, steps=2),
    "inverse autoregressive": partial(guides.InverseAutoregressive, hidden=[8], context=3),
    "neural spline": partial(guides.NeuralSpline, bins=3, hidden=[8], context=3),
}

NETWORKS: dict[str, dict[str, Any]] = {
    "gated": {
        "likelihood": models.Bernoulli,
        "encoder": partial(guides.GatedMLP, hidden=[6, 5]),
        "decoder": partial(models.GatedMLP, hidden=[6, 5]),
    },
    "residual": {
        "likelihood": models.Bernoulli,
        "encoder": partial(guides.ResidualConvolutional, channels=[4], blocks=1),
        "decoder": partial(models.ResidualConvolutional, channels=[4], blocks=1),
    },
    "autoregressive": {
        "likelihood": partial(
            models.Autoregressive, features=2, channels=4, layers=2, kernel_size=3
        ),
        "encoder": partial(guides.Convolutional, channels=[4], kernel_size=3),
        "decoder": partial(models.Convolutional, channels=[4], kernel_size=3),
    },
}

Made = tuple[Callable[[int], models.Prior], Callable[[int], guides.Family]]

CURVED: dict[str, Made] = {
    "power spherical": (models.UniformSphere, guides.PowerSpherical),
    "wrapped normal": (models.WrappedNormal, guides.WrappedNormal),
}
"""Priors that are not of flat space, each with a family that lives where it does."""

DISCRETE: dict[str, Made] = {
    "bits": (models.StandardBernoulli, guides.Bernoulli),
    "learned bits": (models.LearnedBernoulli, guides.Bernoulli),
    "codes": (
        partial(models.StandardCategorical, values=3), partial(guides.Categorical, values=3)
    ),
    "learned codes": (
        partial(models.LearnedCategorical, values=3), partial(guides.Categorical, values=3)
    ),
    "following bits": (partial(models.AutoregressiveBernoulli, hidden=[8]), guides.Bernoulli),
    "following codes": (
        partial(models.AutoregressiveCategorical, values=3, hidden=[8]),
        partial(guides.Categorical, values=3),
    ),
    "vamp of codes": (
        partial(models.Vamp, components=4), partial(guides.Categorical, values=3)
    ),
}  # fmt: skip
"""Priors of discrete codes, each with its family."""


def greys() -> Tensor:
    return torch.rand(6, *EVENT)


LIKELIHOODS: dict[str, tuple[Callable[[tuple[int, ...]], models.Likelihood], Callable[[], Tensor]]]
LIKELIHOODS = {
    "bernoulli": (models.Bernoulli, bits),
    "binomial": (models.Binomial, lambda: torch.randint(0, 17, (6, *EVENT)).float()),
    "normal": (models.Normal, greys),
    "normal fixed": (lambda e: models.Normal(e, 0.3, False), greys),
    "continuous bernoulli": (models.ContinuousBernoulli, greys),
    "beta": (models.Beta, lambda: greys().clamp(0.01, 0.99)),
    "heteroscedastic": (models.HeteroscedasticNormal, greys),
    "laplace": (models.Laplace, greys),
    "student t": (models.StudentT, greys),
    "discretised logistic": (models.DiscretisedLogistic, levels),
    "mixture of logistics": (lambda e: models.MixtureOfDiscretisedLogistics(e, 3), levels),
    "categorical": (lambda e: models.Categorical(e, 16), lambda: levels(16)),
    "poisson": (models.Poisson, counts),
    "negative binomial": (models.NegativeBinomial, counts),
    "zero-inflated": (models.ZeroInflatedNegativeBinomial, counts),
    "multinomial": (models.Multinomial, counts),
}


def with_likelihood(name: str) -> Pair:
    likelihood, x = LIKELIHOODS[name]
    return vae(likelihood, x())


PAIRS: dict[str, Callable[[], Pair]] = {
    **{name: partial(with_likelihood, name) for name in LIKELIHOODS},
    **{
        f"prior {name}": partial(vae, models.Bernoulli, bits(), prior)
        for name, prior in PRIORS.items()
    },
    # Pyro's spline picks the coordinates within its bounds: a shape of their values.
    "prior spline flow": lambda: vae(models.Bernoulli, bits(), PRIORS["spline flow"])._replace(
        captures=False
    ),
    **{
        f"guide {name}": partial(vae, models.Bernoulli, bits(), posterior=family)
        for name, family in FAMILIES.items()
    },
    **{f"networks {name}": partial(vae, x=bits(), **parts) for name, parts in NETWORKS.items()},
    **{
        f"curved {name}": partial(vae, models.Bernoulli, bits(), prior, posterior=family)
        for name, (prior, family) in CURVED.items()
    },
    **{
        f"discrete {name}": partial(vae, models.Bernoulli, bits(), prior, posterior=family)
        for name, (prior, family) in DISCRETE.items()
    },
    "semi-amortized": lambda: vae(
        models.Bernoulli, bits(), amortization=partial(guides.SemiAmortized, steps=2)
    ),
    "semi-amortized flow": lambda: vae(
        models.Bernoulli,
        bits(),
        posterior=FAMILIES["planar"],
        amortization=partial(guides.SemiAmortized, steps=1, differentiate=False),
    ),
    "functions": functions,
    "methods": methods,
    "pyro params": pyro_params,
    "discrete": discrete,
    "ladder": partial(layered, top_down=True),
    "sigmoid belief": bits_in_layers,
    "conditional": partial(labelled, semi=False),
    "semi-supervised": partial(labelled, semi=True),
    "sequence": sequence,
    "flat": flat,
    "shared weight": shared_weight,
    "auto layers": auto_layers,
    "auto semi-supervised": auto_semi_supervised,
}

FEW = {
    "bernoulli",
    "zero-inflated",
    "prior vamp",
    "guide inverse autoregressive",
    "networks autoregressive",
    "discrete codes",
}
"""Rows of single parts that stand for the others of their kind in the plain suite."""


KINDS = ("prior ", "guide ", "networks ", "discrete ")
"""How the names of such rows begin."""


def rows(pairs: Iterable[str]) -> list[Any]:
    """Return names to parametrise with, those of further single parts marked slow.

    tests/test_combinations.py has every part in the plain suite, and so has the test of captured
    steps; what all of them share with the few is seen with ``pytest --slow``.
    """
    parts = {*LIKELIHOODS, *(n for n in PAIRS if n.startswith(KINDS))}
    slow = parts - FEW
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in pairs]
