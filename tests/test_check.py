"""Each fault of a pair, and the words that name it."""

import re
from collections.abc import Callable
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference.check import check


class Sound(PyroModule):
    """A pair without fault, made of one module; each fault changes one method."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Linear(3, 4)
        self.decoder: nn.Module = nn.Linear(2, 3)

    def prior(self) -> Any:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def posterior(self, x: Tensor) -> Any:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def likelihood(self, z: Tensor) -> Any:
        return dist.Bernoulli(logits=self.decoder(z)).to_event(1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


class ExtraInModel(Sound):
    def model(self, x: Tensor) -> None:
        super().model(x)
        with pyro.plate("more", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))


class ExtraInGuide(Sound):
    def guide(self, x: Tensor) -> None:
        super().guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("w", dist.Normal(0.0, 1.0))


class GuideSamplesData(Sound):
    def guide(self, x: Tensor) -> None:
        super().guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("x", dist.Bernoulli(torch.full((3,), 0.5)).to_event(1))


class NotToEvent(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x).base_dist

    def guide(self, x: Tensor) -> None:
        with pyro.plate("latent", 2, dim=-1), pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", self.posterior(x))


class OtherPlate(Sound):
    def guide(self, x: Tensor) -> None:
        pyro.sample("z", self.posterior(x))


class NoPlate(Sound):
    def model(self, x: Tensor) -> None:
        z = pyro.sample("z", self.prior().expand([len(x)]).to_event(1))
        pyro.sample("x", self.likelihood(z).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("z", self.posterior(x).to_event(1))


class NoData(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.prior())


class NormalForGamma(Sound):
    def prior(self) -> Any:
        return dist.Gamma(torch.ones(2), 1.0).to_event(1)


class Counting(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Binomial(16, logits=self.decoder(z)).to_event(1)


class Overflow(Sound):
    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.decoder(z), torch.zeros(3)).to_event(1)


class Unused(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def model(self, x: Tensor) -> None:
        pyro.module("head", self.head)
        super().model(x)


class BatchMean(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x - x.mean(0))


class ScaledBySize(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=1 / len(x)):
            super().model(x)


class IgnoresData(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(torch.zeros_like(x))


class Raises(Sound):
    def posterior(self, x: Tensor) -> Any:
        return super().posterior(x[:, :2])


class NegativeScale(Sound):
    def posterior(self, x: Tensor) -> Any:
        loc, scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, -scale.exp(), validate_args=True).to_event(1)


BITS = torch.bernoulli(torch.full((8, 3), 0.5), generator=torch.Generator().manual_seed(0))
FAULTS: list[tuple[type[Sound], Tensor, str]] = [
    (
        ExtraInModel,
        BITS,
        (
            r"Site 'w' is latent in the model, and the guide does not sample it\. Sample it in the "
            r"guide under the same name, or observe it in the model with obs=;"
        ),
    ),
    (
        ExtraInGuide,
        BITS,
        (
            r"Site 'w' is sampled by the guide, and the model does not have it\. Sample it in the "
            r"model under the same name, remove it from the guide, or, .*is_auxiliary"
        ),
    ),
    (GuideSamplesData, BITS, r"Site 'x' is observed in the model, and the guide samples it\."),
    (
        NotToEvent,
        BITS,
        (
            r"Site 'z' has event_shape \(2,\) in the model and \(\) in the guide\. Make them equal; "
            r"dimensions within one datum are declared with \.to_event\(\)\."
        ),
    ),
    (
        OtherPlate,
        BITS,
        (
            r"Site 'z' is in the plates 'data' \(size 8, dim -1\) in the model and in no plate in "
            r"the guide\. Put it in the same ones\."
        ),
    ),
    (
        NoPlate,
        BITS,
        (
            r"No data plate: the observed site 'x' is in no plate of size 8, the batch's, at dim -1\. "
            r"Wrap the sites of one datum in `with pyro\.plate\('data', len\(x\)\):`"
        ),
    ),
    (NoData, BITS, r"The model observes nothing\. Give the site of the data obs=x\."),
    (
        Sound,
        BITS * 0.5,
        (
            r"Site 'x': \d+ of 24 values of the data lie outside the support of Bernoulli "
            r"\(Boolean\(\)\), as 0\.5 does\. Take another likelihood, or another view of the data\."
        ),
    ),
    (
        NormalForGamma,
        BITS,
        (
            r"Site 'z': \d+ of 16 values of the guide's draws lie outside the support of Gamma .*as "
            r"-\d.*Take another family\."
        ),
    ),
    (
        Counting,
        BITS,
        r"Site 'x': the data never exceed 1, and Binomial counts 16 trials: they look re-binarised",
    ),
    (
        Overflow,
        BITS,
        (
            r"Site 'x' in the model: scale of Normal is 0, outside GreaterThan.*Make a network's raw "
            r"output positive, as by \.exp\(\) or softplus\."
        ),
    ),
    (
        Unused,
        BITS,
        (
            r"Module 'model\.head' \(weight, bias\) gets no gradient: the ELBO does not depend on it\. "
            r"Use it, remove it, or freeze it with requires_grad_\(False\)"
        ),
    ),
    (
        BatchMean,
        BITS,
        (
            r"The ELBO of a datum changes with the batch that it is in: by up to [\d.]+ nats between "
            r"batches of 4 and 8, at the same latent values\."
        ),
    ),
    (
        IgnoresData,
        BITS,
        (
            r"The guide ignores x: q\(z\) stays the same when the data are exchanged\. Compute its "
            r"parameters from x\."
        ),
    ),
    (Raises, BITS, r"The guide raised RuntimeError: .*mat1 and mat2"),
    (NegativeScale, BITS, r"The guide raised ValueError: Expected parameter scale"),
]


@pytest.mark.parametrize(("pair", "x", "words"), FAULTS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.filterwarnings("ignore:trying to observe a value outside of inference")
def test_fault_is_named(pair: Callable[[], Sound], x: Tensor, words: str) -> None:
    both = pair()
    faults = check(both.model, both.guide, x)
    assert len(faults) >= 1
    assert re.search(words, faults[0], re.DOTALL), faults


def test_plate_without_a_size_is_the_datas_or_is_told_of() -> None:
    """It has the size of what is in it: what does not depend on x has none."""

    class Unsized(Sound):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data"):
                z = pyro.sample("z", self.placed(x))
                pyro.sample("x", self.likelihood(z), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data"):
                pyro.sample("z", self.posterior(x))

        def placed(self, x: Tensor) -> Any:
            return dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1)

    class Apart(Unsized):
        def placed(self, x: Tensor) -> Any:
            return self.prior()

    both = Unsized()
    assert check(both.model, both.guide, BITS) == []
    both = Apart()
    (fault,) = check(both.model, both.guide, BITS)
    assert fault.endswith("Give the plate its size, pyro.plate('data', len(x)), in both.")


class Valued(Sound):
    """The guide has a factor, with a value or with a gradient alone."""

    alone = False

    def guide(self, x: Tensor) -> None:
        term = self.posterior(x).base_dist.scale.sum(-1)
        term = term - term.detach() if self.alone else term
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
            pyro.factor("tie", term, has_rsample=True)


def test_factor_of_a_guide_is_noted_where_it_has_a_value() -> None:
    both = Valued()
    (note,) = check(both.model, both.guide, BITS)
    assert note.kind == "note"
    assert note.startswith("Factor 'tie' in the guide counts as a part of log q(z | x), as in Pyro")
    both.alone = True
    assert check(both.model, both.guide, BITS) == []


def test_points_on_a_simplex_are_sound() -> None:
    """AutoDelta has a Delta where the model has a Dirichlet, which is a density over a surface."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(weights).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        simplex = dist.constraints.simplex
        at = pyro.param("at", torch.tensor([0.2, 0.3, 0.5]), constraint=simplex)
        pyro.sample("weights", dist.Delta(at, event_dim=1))

    assert check(model, guide, BITS) == []


class Scaled(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=1e-3):
            super().model(x)

    def guide(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=1e-3):
            super().guide(x)


class ScaledByTensor(Sound):
    def model(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=cast(Any, torch.full((len(x),), 0.5))):
            super().model(x)


class ScaledAnew(Sound):
    calls = 0

    def guide(self, x: Tensor) -> None:
        self.calls += 1
        with pyro.poutine.scale(scale=min(1.0, 0.1 + 0.01 * self.calls)):
            super().guide(x)


WEIGHED = r"It acts in the loss alone; .*--objective\.beta.*Elbo\(beta=.*--kl_weight"
NOTES = [
    (Scaled, rf"Site 'z', 'x': poutine\.scale has it scale 0\.001\. {WEIGHED}"),
    (ScaledByTensor, rf"Site 'z', 'x': poutine\.scale has it scale 0\.5\. {WEIGHED}"),
    (ScaledAnew, rf"Site 'z': .*the scale changes from call to call\. {WEIGHED}"),
    (ScaledBySize, rf"poutine\.scale has it 0\.\d+, and scales by the batch's size\. {WEIGHED}"),
]


@pytest.mark.parametrize(("pair", "words"), NOTES, ids=lambda v: getattr(v, "__name__", ""))
def test_scale_is_noted(pair: Callable[[], Sound], words: str) -> None:
    both = pair()
    (note,) = check(both.model, both.guide, BITS)
    assert note.kind == "note"
    assert re.search(words, note), note


def test_fault_comes_before_a_note() -> None:
    both = Scaled()
    both.posterior = IgnoresData().posterior
    found = check(both.model, both.guide, BITS)
    assert [each.kind for each in found] == ["fault", "note"]


@pytest.mark.parametrize("whose", ["topics", "data"])
def test_plate_of_the_batchs_length_is_the_datas_where_the_model_observes(whose: str) -> None:
    """Its length is a constant in the one case, and the batch's in the other."""
    centre = nn.Parameter(torch.zeros(()))
    encoder = nn.Linear(3, 1)

    def sizes(x: Tensor) -> int:
        return len(BITS) if whose == "topics" else len(x)

    def model(x: Tensor) -> None:
        with pyro.plate("others", sizes(x)):
            w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            logits = (z + (w.mean() if whose == "topics" else w)).unsqueeze(-1).expand(len(x), 3)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("others", sizes(x)):
            pyro.sample("w", dist.Normal(pyro.param("centre", centre), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x).squeeze(-1), 1.0))

    pyro.clear_param_store()
    found = check(model, guide, BITS)
    if whose == "topics":
        assert found == []
    else:
        (fault,) = found
        assert "Site 'w' is in plate 'others', which is as long as the batch" in fault


def test_subsampled_plate_is_noted() -> None:
    class Subsampled(Sound):
        pass

    both = Subsampled()
    plate = pyro.plate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyro, "plate", lambda name, size: plate(name, 1000, subsample_size=size))
        (note,) = check(both.model, both.guide, BITS)
    assert note.kind == "note"
    assert re.search(r"Plate 'data' takes \d+ of 1,000 members: its N / B is in no number", note)


def test_sound_pair_is_sound() -> None:
    both = Sound()
    assert check(both.model, both.guide, BITS) == []


def test_encoder_that_starts_at_zero_does_not_ignore_the_data() -> None:
    both = Sound()
    for parameter in both.encoder.parameters():
        nn.init.zeros_(parameter)
    assert check(both.model, both.guide, BITS) == []


def test_check_leaves_everything_as_it_was() -> None:
    both = Sound()
    both.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
    before = {name: value.clone() for name, value in both.state_dict().items()}
    state = torch.get_rng_state()
    check(both.model, both.guide, BITS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in both.state_dict().items())
    assert all(p.grad is None for p in both.parameters())
    assert all(module.training for module in both.modules())
