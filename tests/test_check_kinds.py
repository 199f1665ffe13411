"""What people get wrong in a pair: members of each kind, and the words that name them."""

import re
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch import Tensor, nn
from torch.nn import functional as F

from inference import SVI
from inference.check import check
from inference.data import AsIs, Binary, Dataset, Grey, Split
from inference.data.supported import outside
from inference.training import fit

from .pairs import PAIRS
from .test_check import BITS, Sound

X = torch.bernoulli(torch.full((10, 3), 0.5), generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(10, 1, 2, 3, generator=torch.Generator().manual_seed(2)).round()


class Recurrent(Sound):
    def __init__(self, cell: Any = nn.GRU) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.cell, self.out = cell(1, 4), nn.Linear(4, 4)

    def posterior(self, x: Tensor) -> Any:
        loc, log_scale = self.out(self.cell(x.unsqueeze(-1))[0][:, -1]).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class RecurrentDecoder(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Identity()
        self.cell = nn.GRU(2, 3)

    def likelihood(self, z: Tensor) -> Any:
        return dist.Bernoulli(
            logits=self.cell(z.reshape(-1, 1, 2))[0].reshape(*z.shape[:-1], 3)
        ).to_event(1)


class OneCodeForAll(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x[:1].expand_as(x))


class SoftmaxOverBatch(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x.cumsum(0))


class LastHalf(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x - x[len(x) // 2 :].mean(0))


class Neighbour(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return super().likelihood(z + z.roll(1, -2))


ORDER = r"of a datum changes with the order of the batch, by up to .*batch_first"


class Decoding(Sound):
    """The code goes through a change on its way to the decoder."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def likelihood(self, z: Tensor) -> Any:
        return super().likelihood(self.change(z))


NO_GRADIENT = r"log p\(x \| z\) sends no gradient to site 'z'"
UNUSED_CODE = r"Nothing in the model depends on site 'z': log p\(x \| z\) is the same"


class Likelihood(Sound):
    """The model observes by a distribution of its own making."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def likelihood(self, z: Tensor) -> Any:
        return self.make(self.decoder(z))


class NoSupport(dist.TorchDistribution):
    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[override]

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NoSupport":
        return NoSupport(self.loc.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return -((value - self.loc) ** 2)


class Target(Sound):
    """A target beside x, observed in the shape that `y` makes of the batch."""

    def __init__(self, y: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.y, self.head = y, nn.Linear(2, 1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)
            loc = self.head(z).squeeze(-1)
            pyro.sample("y", dist.Normal(loc, 1.0), obs=self.y(x))


class Local(Sound):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.auto = kind(self.model)

    def guide(self, x: Tensor) -> None:
        self.auto(x)


class PlateOfConstantSize(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", 10):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)


class Needs(Sound):
    def guide(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        super().guide(x)


class ForgotToEvent(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x).base_dist


class ForgotInPrior(Sound):
    def prior(self) -> Any:
        return dist.Normal(torch.zeros(2), 1.0)


class ForgotInLikelihood(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Bernoulli(logits=self.decoder(z))


class FunctionDropout(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(F.dropout(x, 0.5))


class FunctionDropoutInModel(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return super().likelihood(F.dropout(z, 0.5))


class FunctionBatchNorm(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(F.batch_norm(x, None, None, training=True))


class ThreeUnused(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def model(self, x: Tensor) -> None:
        pyro.module("head", self.head)
        super().model(x)


class RaisesOnHalf(Sound):
    def posterior(self, x: Tensor) -> Any:
        if len(x) != len(X):
            raise RuntimeError("only whole batches here")
        return super().posterior(x)


class RaisesInDensity(Sound):
    def likelihood(self, z: Tensor) -> Any:
        class Broken(dist.Bernoulli):
            def log_prob(self, value: Tensor) -> Tensor:
                raise KeyError("no table for this value")

        return Broken(logits=self.decoder(z)).to_event(1)


def bern(**by: Any) -> Any:
    return dist.Bernoulli(**by, validate_args=False).to_event(1)


KINDS: list[tuple[str, Callable[[], Sound], str]] = [
    ("GRU along the batch", Recurrent, rf"q\(z \| x\) {ORDER}"),
    ("LSTM along the batch", lambda: Recurrent(nn.LSTM), rf"q\(z \| x\) {ORDER}"),
    ("decoder along the batch", RecurrentDecoder, rf"p\(x \| \.\.\.\) {ORDER}"),
    ("one code for all", OneCodeForAll, r"changes with the (order of the )?batch"),
    ("cumsum", SoftmaxOverBatch, rf"q\(z \| x\) {ORDER}"),
    ("mean of the last half", LastHalf, rf"q\(z \| x\) {ORDER}"),
    ("neighbour's code", Neighbour, ORDER),
    ("detach", lambda: Decoding(lambda z: z.detach()), NO_GRADIENT),
    ("data", lambda: Decoding(lambda z: z.data), NO_GRADIENT),
    ("numpy", lambda: Decoding(lambda z: torch.tensor(z.tolist())), NO_GRADIENT),
    ("round", lambda: Decoding(lambda z: (5 * z).round()), NO_GRADIENT),
    ("zeros", lambda: Decoding(torch.zeros_like), UNUSED_CODE),
    ("times 0", lambda: Decoding(lambda z: 0 * z), UNUSED_CODE),
    ("a constant", lambda: Decoding(lambda z: torch.ones(*z.shape)), UNUSED_CODE),
    ("to_event", ForgotToEvent, r"site 'z' has batch shape \(10, 2\).*test_check\.py, line \d+.*Write \.to_event\(1\)"),
    ("to_event in the prior", ForgotInPrior, r"site 'z' has batch shape \(2,\).*Write \.to_event\(1\)"),
    ("to_event in the likelihood", ForgotInLikelihood, r"site 'x' has batch shape \(10, 3\).*Write \.to_event\(1\)"),
    ("target (B, 1)", lambda: Target(lambda x: x[:, :1]), r"Site 'y': the data have shape \(10, 1\), and Normal has \(10,\).*densities.*squeeze"),
    ("target (1, B)", lambda: Target(lambda x: x[:, 0].expand(10, 10)), r"Site 'y': the data have shape \(10, 10\)"),
    ("target of another length", lambda: Target(lambda x: x[:4, 0]), r"Site 'y': the data have shape \(4,\), and Normal has \(10,\).*don't fit"),
    ("repeated in a datum", lambda: Likelihood(lambda d: dist.Bernoulli(logits=d.unsqueeze(-2).expand(*d.shape[:-1], 4, 3)).to_event(2)), r"Site 'x': the data have shape \(10, 3\), and Bernoulli has \(10, 4, 3\)"),
    ("raw outputs as probs", lambda: Likelihood(lambda d: bern(probs=d)), r"Site 'x' in the model: probs of Bernoulli is -?[\d.]+, outside .*give them as logits="),
    ("raw outputs as a rate", lambda: Likelihood(lambda d: dist.Poisson(d, validate_args=False).to_event(1)), r"rate of Poisson is -?[\d.]+, outside .*softplus"),
    ("raw outputs as a scale", lambda: Likelihood(lambda d: dist.Laplace(d, d, validate_args=False).to_event(1)), r"scale of Laplace is -?[\d.]+, outside"),
    ("sigmoid as logits", lambda: Likelihood(lambda d: bern(logits=d.sigmoid())), r"logits of Bernoulli are the output of a sigmoid.*probs="),
    ("sigmoid as logits, in another shape", lambda: Likelihood(lambda d: bern(logits=d.sigmoid().unsqueeze(-1).squeeze(-1))), r"output of a sigmoid"),
    ("softmax as logits", lambda: Likelihood(lambda d: dist.OneHotCategorical(logits=d.softmax(-1))), r"logits of OneHotCategorical are the output of a softmax|outside the support"),
    ("no support", lambda: Likelihood(lambda d: NoSupport(d).to_event(1)), r"Site 'x': NoSupport has no support.*support = constraints\.real"),
    ("AutoNormal", lambda: Local(AutoNormal), r"The guide has parameters for each of 10 data.*Amortise it.*one batch"),
    ("AutoDiagonalNormal", lambda: Local(AutoDiagonalNormal), r"The guide has parameters for each of 10 data"),
    ("AutoDelta", lambda: Local(AutoDelta), r"The guide has parameters for each of 10 data"),
    ("plate of a constant size", PlateOfConstantSize, r"runs on a batch of 10 and not on one of 5.*plate 'data' has 10 members.*len\(x\)"),
    ("missing argument", Needs, r"missing 1 required positional argument: 'y'.*A batch is x and what is given with it.*x alone"),
    ("dropout in a function", FunctionDropout, r"Site 'z' in the guide has another density at the same values.*nn\.Dropout"),
    ("dropout in a model's function", FunctionDropoutInModel, r"Site 'x' in the model has another density.*\.eval\(\)"),
    ("batch norm in a function", FunctionBatchNorm, r"The ELBO of a datum changes with the batch.*F\.batch_norm.*\.eval\(\)"),
    ("two unused modules", ThreeUnused, r"Module 'model\.head\.0' \(weight, bias\) gets no gradient"),
    ("raises on a part", RaisesOnHalf, r"runs on a batch of 10 and not on one of 5.*RuntimeError: only whole batches here \(test_check_kinds\.py, line \d+\)"),
    ("raises in its density", RaisesInDensity, r"KeyError: 'no table for this value' \(test_check_kinds\.py, line \d+"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
@pytest.mark.filterwarnings("ignore")
def test_kind_is_named(make: Callable[[], Sound], words: str) -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    both = make()
    found = check(both.model, both.guide, X)
    assert found, "nothing was found"
    assert found[0].kind == "fault"
    assert re.search(words, found[0], re.DOTALL), found


def test_unused_parameters_are_a_sentence_a_module() -> None:
    both = ThreeUnused()
    assert len(check(both.model, both.guide, X)) == 2


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", [0, 7])
def test_no_fault_is_found_in_a_sound_pair(name: str, seed: int) -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    pair = PAIRS[name]()
    assert [each for each in check(pair.model, pair.guide, pair.x) if each.kind == "fault"] == []


class Block(nn.Module):
    """A residual block without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.net(h)


@pytest.mark.parametrize("seed", range(8))
def test_residual_encoder_does_not_ignore_the_data(seed: int) -> None:
    pyro.set_rng_seed(seed)
    x = torch.rand(16, 1, 8, 8)
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        *(Block(16) for _ in range(4)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 8),
    )
    decoder = nn.Linear(4, 64)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            loc = decoder(z).reshape(*z.shape[:-1], 1, 8, 8)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    pyro.clear_param_store()
    assert check(model, guide, x) == []


@pytest.mark.parametrize(("view", "faults"), [(Binary(), 0), (Grey(1), 1)])
def test_what_is_beside_x_has_a_unit_of_its_own(view: Any, faults: int) -> None:
    both = Target(lambda x: x.mean(-1))
    found = check(both.model, both.guide, X, view)
    assert len(found) == faults
    assert not faults or found[0].startswith("Site 'x': Bernoulli has a mass")


@pytest.mark.parametrize("batch", [{"x": X}, [X], None, (X, 3), (X, None), (), "x"])
def test_batch_of_another_kind(batch: Any) -> None:
    both = Sound()
    with pytest.raises(TypeError, match="Expected a batch that is a tensor or a tuple of tensors"):
        check(both.model, both.guide, batch)


def test_scaled_masked_and_deterministic_sites_are_sound() -> None:
    class Masked(Sound):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.prior())
                pyro.deterministic("logits", self.decoder(z), event_dim=1)
                with poutine.mask(mask=cast(Any, x[:, 0] > 0)):
                    pyro.sample("x", self.likelihood(z), obs=x)

    both = Masked()
    assert check(both.model, both.guide, BITS) == []


class EventDimsDiffer(Sound):
    """A datum has one number for a vector of one: densities would be summed over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(1, 3)

    def prior(self) -> Any:
        return dist.Normal(torch.zeros(1), 1.0).to_event(1)

    def likelihood(self, z: Tensor) -> Any:
        return super().likelihood(z.reshape(-1, 1))

    def posterior(self, x: Tensor) -> Any:
        return dist.Normal(self.encoder(x).sum(-1), 1.0)


class MoreInGuide(Sound):
    def guide(self, x: Tensor) -> None:
        super().guide(x)
        with pyro.plate("again", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))


class LessInGuide(Sound):
    def model(self, x: Tensor) -> None:
        super().model(x)
        with pyro.plate("again", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))


def test_first_step_of_a_pair_that_check_never_saw() -> None:
    both = EventDimsDiffer()
    with pytest.raises(ValueError, match=r"Site 'z' has event_shape \(1,\) in the model and \(\)"):
        SVI(both.model, both.guide).step(X)
    both = LessInGuide()
    with pytest.raises(ValueError, match="Site 'w' is latent in the model, and the guide does not"):
        SVI(both.model, both.guide).step(X)
    both = MoreInGuide()
    svi = SVI(both.model, both.guide)
    with pytest.warns(
        UserWarning, match="Site 'w' is sampled by the guide.*remove it from the guide"
    ):
        svi.step(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.step(X)


@pytest.mark.parametrize("module", [False, True])
def test_a_look_leaves_no_parameters_behind(module: bool) -> None:
    """What `pyro.param` draws to start from is the seed's, not that of the look."""

    class Owner(torch.nn.Module):
        def forward(self, x: Tensor) -> None:
            model(x)

    def model(x: Tensor) -> None:
        w = pyro.param("w", lambda: torch.randn(2, 4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ w).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        v = pyro.param("v", lambda: torch.randn(4, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ v, 1.0).to_event(1))

    x = torch.eye(4).repeat(4, 1)
    split = Split(x)
    starts = []
    for seed in (0, 1):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        chosen = Owner() if module else model
        assert check(chosen, guide, x) == []
        assert outside(chosen, guide, Dataset("d", split, split, split)) is None
        svi = SVI(chosen, guide)
        svi.prepare(x)
        starts.append(svi.weights())
    assert starts[0].keys() == starts[1].keys()
    for name, value in starts[0].items():
        assert not torch.equal(value, starts[1][name]), name


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_type_of_x_is_told_and_can_be_kept(kind: torch.dtype) -> None:
    """A pair that embeds whole numbers, and one of 64 bits: x is a float of 32 bits otherwise."""
    embeds = kind == torch.int64
    networks = nn.ModuleList(
        [nn.Embedding(5, 4) if embeds else nn.Linear(1, 4), nn.Linear(2, 5)]
    ).to(torch.float32 if embeds else kind)

    def model(x: Tensor) -> None:
        pyro.module("networks", networks)
        with pyro.plate("data", len(x)):
            zero = torch.zeros(2, dtype=torch.float32 if embeds else kind)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            out = networks[1](z)
            seen = dist.Categorical(logits=out) if embeds else dist.Normal(out[:, :1], 1.0)
            pyro.sample("x", seen if embeds else seen.to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("networks", networks)
        loc, log_scale = networks[0](x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    stored = torch.arange(40) % 5 if embeds else torch.randn(40, 1, dtype=kind)
    (said,) = check(model, guide, Split(stored).batch(slice(8)))
    assert "x is float32 here" in said
    assert "AsIs(keep_dtype=True)" in said
    split = Split(stored, AsIs(keep_dtype=True))
    assert not check(model, guide, split.batch(slice(8)))
    data = Dataset("kept", split, split, split)
    assert fit(SVI(model, guide), data, epochs=1, batch_size=8, show_progress=False).rows
