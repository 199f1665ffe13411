"""The kinds of pairs in Pyro's documentation, each a small one of its own, with its ELBO."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import (
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.nn import functional as F

from .pairs import methods

SIZE, BITS, CLASSES, Z = 6, 4, 3, 2


class Brought(NamedTuple):
    """A pair as its author brings it.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: a batch.
        elbo: makes the ELBO of Pyro's that it is trained with there.
        shared: a site that all data share, if there is one.
        note: words of a note that `check` has.
        sums: whether log weights sum out a site of the model's.
        whole: whether the guide fits no other batch, as `check` says.
    """

    model: Any
    guide: Any
    x: Any
    elbo: Callable[[], Any] = Trace_ELBO
    shared: str | None = None
    note: str | None = None
    sums: bool = False
    whole: bool = False


def bits(width: int = BITS) -> Tensor:
    return torch.bernoulli(torch.full((SIZE, width), 0.4))


def normal(out: Tensor) -> Any:
    loc, log_scale = out.chunk(2, -1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)


def standard(x: Tensor, size: int = Z) -> Any:
    return dist.Normal(x.new_zeros(size), 1.0).to_event(1)


def joined(*parts: Tensor) -> Tensor:
    """Join vectors along their last dimension; the dimensions before it are broadcast."""
    before = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*before, part.shape[-1]) for part in parts], -1)


def plain_vae() -> Brought:
    pair = methods()
    return Brought(pair.model, pair.guide, pair.x)


class SemiSupervised(nn.Module):
    """The label is data in one batch, and in the other the guide's, who sums it out."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(Z + CLASSES, BITS)
        self.classifier, self.encoder = nn.Linear(BITS, CLASSES), nn.Linear(BITS + CLASSES, 2 * Z)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("semi", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard(x))
            label = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(CLASSES)), obs=y)
            logits = self.decoder(joined(z, label))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)))
            pyro.sample("z", normal(self.encoder(joined(x, y))))


def semi_supervised(labelled: bool) -> Brought:
    both, x = SemiSupervised(), bits()
    if labelled:
        y = F.one_hot(torch.arange(SIZE) % CLASSES, CLASSES).float()
        both.classifier.requires_grad_(False)
        return Brought(both.model, both.guide, (x, y))
    guide = config_enumerate(both.guide, "parallel", expand=True)
    return Brought(both.model, guide, x, partial(TraceEnum_ELBO, max_plate_nesting=1))


class DeepMarkov(nn.Module):
    """Sequences of several lengths: a mask has the steps that there are, annealing a scale."""

    def __init__(self, annealed: float) -> None:
        super().__init__()
        self.annealed = annealed
        self.move, self.emit = nn.Linear(Z, 2 * Z), nn.Linear(Z, BITS)
        self.rnn, self.combine = nn.GRU(BITS, 3, batch_first=True), nn.Linear(Z + 3, 2 * Z)
        self.first, self.start = nn.Parameter(torch.zeros(Z)), nn.Parameter(torch.zeros(Z))

    def model(self, x: Tensor, lengths: Tensor) -> None:
        pyro.module("dmm", self)
        present = (torch.arange(x.shape[1]) < lengths.unsqueeze(-1)).float()
        with pyro.plate("z_minibatch", len(x)):
            z: Tensor = self.first.expand(len(x), Z)
            for t in pyro.markov(range(x.shape[1])):
                loc, log_scale = self.move(z).chunk(2, -1)
                with poutine.scale(scale=self.annealed):
                    move = dist.Normal(loc, log_scale.exp()).mask(present[:, t : t + 1])
                    z = pyro.sample(f"z_{t}", move.to_event(1))
                emit = dist.Bernoulli(logits=self.emit(z)).mask(present[:, t : t + 1])
                pyro.sample(f"x_{t}", emit.to_event(1), obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        present = (torch.arange(x.shape[1]) < lengths.unsqueeze(-1)).float()
        backwards = self.rnn(x.flip(1))[0].flip(1)
        with pyro.plate("z_minibatch", len(x)):
            z: Tensor = self.start.expand(len(x), Z)
            for t in pyro.markov(range(x.shape[1])):
                loc, log_scale = self.combine(joined(z, backwards[:, t])).chunk(2, -1)
                with poutine.scale(scale=self.annealed):
                    step = dist.Normal(loc, log_scale.exp()).mask(present[:, t : t + 1])
                    z = pyro.sample(f"z_{t}", step.to_event(1))


def deep_markov(annealed: float) -> Brought:
    both = DeepMarkov(annealed)
    batch = bits(3 * BITS).reshape(SIZE, 3, BITS), torch.tensor([3, 1, 2, 3, 2, 1])
    note = "poutine.scale has it scale 0.3" if annealed != 1 else None
    return Brought(both.model, both.guide, batch, note=note)


class Conditional(PyroModule):
    """The lower half of a picture given the upper one, with a prior that has seen that."""

    def __init__(self) -> None:
        super().__init__()
        self.baseline, self.decoder = nn.Linear(BITS, BITS), nn.Linear(Z, BITS)
        self.prior, self.recognition = nn.Linear(2 * BITS, 2 * Z), nn.Linear(2 * BITS, 2 * Z)

    def model(self, lower: Tensor, upper: Tensor) -> None:
        pyro.module("conditional", self)
        with pyro.plate("data"):
            guess = self.baseline(upper)
            z = pyro.sample("z", normal(self.prior(joined(upper, guess.sigmoid()))))
            likelihood = dist.Bernoulli(logits=self.decoder(z) + guess)
            pyro.sample("y", likelihood.to_event(1), obs=lower)

    def guide(self, lower: Tensor, upper: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", normal(self.recognition(joined(lower, upper))))


def conditional() -> Brought:
    both = Conditional()
    return Brought(both.model, both.guide, (bits(), bits()))


class ProdLDA(nn.Module):
    """Topics of documents: products of experts over words, with dropout and batch norm."""

    def __init__(self, words: int = 8) -> None:
        super().__init__()
        self.beta = nn.Linear(Z, words, bias=False)
        self.norm = nn.BatchNorm1d(words, affine=False)
        self.encoder = nn.Sequential(nn.Linear(words, 4), nn.Softplus(), nn.Dropout(0.2))
        self.head = nn.Sequential(nn.Linear(4, 2 * Z), nn.BatchNorm1d(2 * Z, affine=False))

    def model(self, docs: Tensor) -> None:
        pyro.module("decoder", self.beta)
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("logtheta", standard(docs)).softmax(-1)
            flat = self.norm(self.beta(theta).flatten(0, -2))
            probs = flat.reshape(*theta.shape[:-1], -1).softmax(-1)
            most = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(most, probs), obs=docs)

    def guide(self, docs: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        pyro.module("head", self.head)
        with pyro.plate("documents", len(docs)):
            pyro.sample("logtheta", normal(self.head(self.encoder(docs))))


def prod_lda() -> Brought:
    both = ProdLDA()
    docs = torch.poisson(torch.full((SIZE, 8), 2.0))
    return Brought(both.model, both.guide, docs, TraceMeanField_ELBO)


class SparseGamma(nn.Module):
    """Two layers of gammas under weights of all data; the guide has numbers for each datum."""

    def __init__(self, amortised: bool) -> None:
        super().__init__()
        self.amortised, self.net = amortised, nn.Linear(BITS, 2 * (Z + 3))

    def model(self, x: Tensor) -> None:
        pyro.module("def", self)
        with pyro.plate("top_weights", Z * 3):
            top = pyro.sample("w_top", dist.Gamma(0.5, 0.5)).reshape(Z, 3)
        with pyro.plate("bottom_weights", 3 * BITS):
            bottom = pyro.sample("w_bottom", dist.Gamma(0.5, 0.5)).reshape(3, BITS)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z_top", dist.Gamma(x.new_full((Z,), 0.8), 0.8).to_event(1))
            z = pyro.sample("z_bottom", dist.Gamma(0.8, 0.8 / (z @ top + 0.1)).to_event(1))
            pyro.sample("x", dist.Poisson(z @ bottom + 0.1).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        def positive(name: str, *shape: int) -> Tensor:
            start = torch.full(shape, 0.7)
            return pyro.param(name, start, constraint=constraints.positive)

        for name, size in (("top", Z * 3), ("bottom", 3 * BITS)):
            shape, mean = positive(f"shape_{name}", size), positive(f"mean_{name}", size)
            with pyro.plate(f"{name}_weights", size):
                pyro.sample(f"w_{name}", dist.Gamma(shape, shape / mean))
        if self.amortised:
            top, mean_top, low, mean_low = F.softplus(self.net(x)).split([Z, Z, 3, 3], -1)
        else:
            top, mean_top = positive("a", len(x), Z), positive("b", len(x), Z)
            low, mean_low = positive("c", len(x), 3), positive("d", len(x), 3)
        with pyro.plate("data", len(x)):
            pyro.sample("z_top", dist.Gamma(top, top / mean_top).to_event(1))
            pyro.sample("z_bottom", dist.Gamma(low, low / mean_low).to_event(1))


def sparse_gamma(amortised: bool) -> Brought:
    both, x = SparseGamma(amortised), torch.poisson(torch.full((SIZE, BITS), 2.0))
    both.net.requires_grad_(amortised)
    return Brought(both.model, both.guide, x, TraceMeanField_ELBO, "w_bottom", whole=not amortised)


class LDA(nn.Module):
    """Topics of words: each word's is summed out, a document's comes from a network."""

    def __init__(self, words: int = 5, topics: int = 2) -> None:
        super().__init__()
        self.words, self.topics = words, topics
        self.predictor = nn.Sequential(nn.Linear(words, topics), nn.Softmax(-1))

    def model(self, docs: Tensor) -> None:
        with pyro.plate("topics", self.topics):
            weights = pyro.sample("topic_weights", dist.Gamma(1.0 / self.topics, 1.0))
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(self.words)))
        with pyro.plate("documents", len(docs), dim=-1):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(weights))
            with pyro.plate("words", docs.shape[1], dim=-2):
                topic = pyro.sample(
                    "word_topics", dist.Categorical(doc_topics), infer={"enumerate": "parallel"}
                )
                pyro.sample("doc_words", dist.Categorical(topic_words[topic]), obs=docs.long().T)

    def guide(self, docs: Tensor) -> None:
        pyro.module("predictor", self.predictor)
        ones, positive = torch.ones(self.topics), constraints.positive
        posterior = pyro.param("topic_weights_posterior", ones, constraint=positive)
        concentration = pyro.param(
            "topic_words_posterior", torch.ones(self.topics, self.words), constraint=positive
        )
        with pyro.plate("topics", self.topics):
            pyro.sample("topic_weights", dist.Gamma(posterior, 1.0))
            pyro.sample("topic_words", dist.Dirichlet(concentration))
        counts = F.one_hot(docs.long(), self.words).sum(1).float()
        with pyro.plate("documents", len(docs), dim=-1):
            pyro.sample("doc_topics", dist.Delta(self.predictor(counts), event_dim=1))


def lda() -> Brought:
    both = LDA()
    docs = torch.randint(0, 5, (SIZE, 7))
    elbo = partial(TraceEnum_ELBO, max_plate_nesting=2)
    return Brought(both.model, both.guide, docs, elbo, "topic_words", sums=True)


class CausalEffect(PyroModule):
    """A treatment and an outcome beside the covariates; the guide sees all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.t, self.y = nn.Linear(Z, BITS), nn.Linear(Z, 1), nn.Linear(Z + 1, 1)
        self.encoder = nn.Linear(BITS + 2, 2 * Z)

    def model(self, x: Tensor, t: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard(x))
            pyro.sample("x", dist.Bernoulli(logits=self.x(z)).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=self.t(z).squeeze(-1)), obs=t)
            loc = self.y(joined(z, t.unsqueeze(-1))).squeeze(-1)
            pyro.sample("y", dist.Laplace(loc, 1.0), obs=y)

    def guide(self, x: Tensor, t: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(self.encoder(joined(x, t.unsqueeze(-1), y.unsqueeze(-1)))))


def causal_effect() -> Brought:
    both = CausalEffect()
    t = (torch.arange(SIZE) % 2).float()
    return Brought(both.model, both.guide, (bits(), t, torch.randn(SIZE)))


class Annotated(nn.Module):
    """Cell types: two layers, a size and counts; a guide that is scored for its labels."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.upper, self.counts = nn.Linear(Z + CLASSES, 2 * Z), nn.Linear(Z, BITS)
        self.dispersion = nn.Parameter(torch.zeros(BITS))
        self.encoder, self.classifier = nn.Linear(BITS, 2 * Z + 2), nn.Linear(Z, CLASSES)
        self.lower = nn.Linear(Z + CLASSES, 2 * Z)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("annotated", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale):
            z1 = pyro.sample("z1", standard(x))
            label = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(CLASSES)), obs=y)
            z2 = pyro.sample("z2", normal(self.upper(joined(z1, label))))
            size = pyro.sample("l", dist.LogNormal(x.new_ones(1), 1.0).to_event(1))
            logits = (size * self.counts(z2).softmax(-1) + 1e-6).log() - self.dispersion
            counts = dist.NegativeBinomial(self.dispersion.exp(), logits=logits)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale):
            code, size = self.encoder((1 + x).log()).split([2 * Z, 2], -1)
            z2 = pyro.sample("z2", normal(code))
            loc, log_scale = size.chunk(2, -1)
            pyro.sample("l", dist.LogNormal(loc, log_scale.exp()).to_event(1))
            kinds = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", kinds)
            else:
                loss = -kinds.log_prob(y)
                pyro.factor("classification_loss", 2.0 * loss, has_rsample=True)
            pyro.sample("z1", normal(self.lower(joined(z2, y))))


def annotated(labelled: bool, scale: float = 1.0) -> Brought:
    both, x = Annotated(scale), torch.poisson(torch.full((SIZE, BITS), 3.0))
    note = "'classification_loss' in the guide counts as a part of log q" if labelled else None
    note = "poutine.scale has it scale 0.25" if scale != 1 else note
    elbo = partial(TraceEnum_ELBO, max_plate_nesting=1)
    if labelled:
        y = F.one_hot(torch.arange(SIZE) % CLASSES, CLASSES).float()
        return Brought(both.model, both.guide, (x, y), elbo, note=note)
    guide = config_enumerate(both.guide, "parallel", expand=True)
    return Brought(both.model, guide, x, elbo, note=note)


class Regression(PyroModule):
    """A linear model whose weights are drawn, as all data share them."""

    def __init__(self) -> None:
        super().__init__()
        linear: Any = PyroModule[nn.Linear]
        self.linear = linear(BITS, 1)
        one: Any = dist.Normal(0.0, 1.0)
        self.linear.weight = PyroSample(one.expand([1, BITS]).to_event(2))
        self.linear.bias = PyroSample(one.expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def regression(auto: Callable[[Any], Any]) -> Brought:
    model, x = Regression(), torch.randn(SIZE, BITS)
    y = x @ torch.arange(4.0) + 0.3 * torch.randn(SIZE)
    return Brought(model, auto(model), (x, y), shared="linear.bias")


class Mixture(PyroModule):
    """Two clusters whose means all data share; each datum's cluster is summed out."""

    def model(self, x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[kind], scale), obs=x)


def mixture() -> Brought:
    model = config_enumerate(Mixture().model)
    auto = AutoDelta(poutine.block(model, hide=["kind"]))
    x = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0, 0.5])
    elbo = partial(TraceEnum_ELBO, max_plate_nesting=1)
    return Brought(model, auto, x, elbo, "locs", sums=True)


def poisson_count() -> Brought:
    """A count that is drawn, and so scored."""
    rate, spread = nn.Linear(BITS, 1), nn.Parameter(torch.tensor(0.5))

    def model(x: Tensor) -> None:
        gain = pyro.param("gain", torch.ones(BITS))
        with pyro.plate("data", len(x)):
            n = pyro.sample("n", dist.Poisson(2.0))
            pyro.sample("x", dist.Normal(n.unsqueeze(-1) * gain, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("rate", rate)
        pyro.param("spread", spread)
        with pyro.plate("data", len(x)):
            pyro.sample("n", dist.Poisson(F.softplus(rate(x).squeeze(-1) + spread)))

    return Brought(model, guide, bits(), TraceGraph_ELBO)


BROUGHT: dict[str, Callable[[], Brought]] = {
    "plain vae": plain_vae,
    "semi-supervised, unlabelled": partial(semi_supervised, False),
    "semi-supervised, labelled": partial(semi_supervised, True),
    "deep markov": partial(deep_markov, 1.0),
    "deep markov, annealed": partial(deep_markov, 0.3),
    "conditional": conditional,
    "prod lda": prod_lda,
    "sparse gamma": partial(sparse_gamma, True),
    "sparse gamma of one batch": partial(sparse_gamma, False),
    "lda": lda,
    "causal effect": causal_effect,
    "annotated, unlabelled": partial(annotated, False),
    "annotated, labelled": partial(annotated, True),
    "annotated, scaled": partial(annotated, True, 0.25),
    "regression, normal": partial(regression, AutoDiagonalNormal),
    "regression, mean field": partial(regression, AutoNormal),
    "regression, delta": partial(regression, AutoDelta),
    "mixture": mixture,
    "poisson count": poisson_count,
}
