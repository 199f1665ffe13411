"""Sound pairs of kinds that are easily mistaken for faults, from check to pictures."""

import math
import re
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from inference import SVI, Dataset, Elbo, Enumerate, Split, evaluate, fit
from inference.check import check
from inference.data import Binary
from inference.evaluation import diagnose
from inference.objectives import Objective
from inference.runs.gallery import save_pictures
from inference.tensors import tensors_of

SHAPE, PIXELS, Z, SIZE = (1, 3, 4), 12, 2, 64


class Both(nn.Module):
    """Model and guide of images of bits; each kind changes one method."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(Z, PIXELS), nn.Linear(PIXELS, 2 * Z)

    def logits(self, z: Tensor) -> Tensor:
        return self.decoder(z).reshape(*z.shape[:-1], *SHAPE)

    def code(self, x: Tensor) -> Tensor:
        return pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))

    def observe(self, x: Tensor, logits: Tensor) -> None:
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def model(self, x: Tensor, *given: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = self.code(x)
            self.observe(x, self.logits(z))
            self.beside(x, z, *given)

    def beside(self, x: Tensor, z: Tensor, *given: Tensor) -> None:
        """Say what else the model has of a datum."""

    def guide(self, x: Tensor, *given: Tensor) -> None:
        loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Scaled(Both):
    def model(self, x: Tensor, *given: Tensor) -> None:
        with poutine.scale(scale=0.01):
            super().model(x)

    def guide(self, x: Tensor, *given: Tensor) -> None:
        with poutine.scale(scale=0.01):
            super().guide(x)


class Tied(Both):
    def beside(self, x: Tensor, z: Tensor, *given: Tensor) -> None:
        pyro.factor("tie", -((z.mean(-1) - x.mean((-3, -2, -1))) ** 2))


class Deterministic(Both):
    def model(self, x: Tensor, *given: Tensor) -> None:
        pyro.deterministic("weight", self.decoder.weight)
        super().model(x)

    def observe(self, x: Tensor, logits: Tensor) -> None:
        p = pyro.deterministic("p", logits.sigmoid(), event_dim=3)
        pyro.sample("x", dist.Bernoulli(p).to_event(3), obs=x)


class Tilted(Both):
    """A plate of its own, with as many members as it is given."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.centre = size, nn.Parameter(torch.zeros(size))

    def model(self, x: Tensor, *given: Tensor) -> None:
        with pyro.plate("topics", self.size):
            tilt = pyro.sample("tilt", dist.Normal(x.new_zeros(()), 1.0)).mean()
        with pyro.plate("data", len(x)):
            self.observe(x, self.logits(self.code(x)) + tilt)

    def guide(self, x: Tensor, *given: Tensor) -> None:
        with pyro.plate("topics", self.size):
            pyro.sample("tilt", dist.Normal(self.centre, 0.1))
        super().guide(x)


class BinaryCode(Both):
    def code(self, x: Tensor) -> Tensor:
        return pyro.sample("z", dist.Bernoulli(x.new_full((Z,), 0.5)).to_event(1))

    def guide(self, x: Tensor, *given: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = self.encoder(x.flatten(1))[:, :Z] + self.encoder(x.flatten(1))[:, Z:]
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))


class OneHot(Both):
    """A class as a vector, in model and guide."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.kind = nn.Linear(3, Z), nn.Linear(PIXELS, 3)

    def code(self, x: Tensor) -> Tensor:
        y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(3) / 3))
        return super().code(x) + self.shift(y)

    def guide(self, x: Tensor, *given: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=self.kind(x.flatten(1))))
            loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Clusters(Both):
    """A class that only the model has."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, Z))

    def code(self, x: Tensor) -> Tensor:
        marked: Any = {"enumerate": "parallel"}
        c = pyro.sample("c", dist.Categorical(x.new_ones(3)), infer=marked)
        return pyro.sample("z", dist.Normal(self.centres[c], 1.0).to_event(1))


class Label(Both):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(Z, 10)

    def beside(self, x: Tensor, z: Tensor, *given: Tensor) -> None:
        pyro.sample("y", dist.Categorical(logits=self.head(z)), obs=given[0].long())


class Flat(Both):
    def observe(self, x: Tensor, logits: Tensor) -> None:
        flat = dist.Bernoulli(logits=logits.flatten(-3)).to_event(1)
        pyro.sample("x", flat, obs=x.flatten(-3))


class Target(Both):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(Z, 1)

    def beside(self, x: Tensor, z: Tensor, *given: Tensor) -> None:
        ink = dist.Normal(self.head(z).squeeze(-1), 0.1)
        pyro.sample("ink", ink, obs=x.mean((-3, -2, -1)))


class Frozen(Both):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(Z, Z).requires_grad_(False)

    def logits(self, z: Tensor) -> Tensor:
        return super().logits(self.first(z))


class Steps(nn.Module):
    """As many sites as the longest sequence of a batch has steps."""

    def __init__(self) -> None:
        super().__init__()
        self.move, self.net = nn.Linear(Z, Z), nn.Linear(PIXELS, Z)
        self.emit = nn.Linear(Z, PIXELS)

    def model(self, x: Tensor, lengths: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = x.new_zeros(Z)
            for t in range(int(lengths.max())):
                here: Any = t < lengths
                with poutine.mask(mask=here):
                    z = pyro.sample(f"z_{t}", dist.Normal(self.move(z), 1.0).to_event(1))
                    seen = dist.Bernoulli(logits=self.emit(z)).to_event(1)
                    pyro.sample(f"x_{t}", seen, obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for t in range(int(lengths.max())):
                here: Any = t < lengths
                with poutine.mask(mask=here):
                    pyro.sample(f"z_{t}", dist.Normal(self.net(x[:, t]), 1.0).to_event(1))


class Case(NamedTuple):
    """A kind: how to make the pair, what it says in a note, its objective, its pictures."""

    make: Callable[[], Any]
    note: str | None = None
    objective: Objective | TraceEnum_ELBO | None = None
    pictures: Collection[str] = ("samples", "reconstructions", "interpolations")


FACTOR = "Factor 'tie' is no density of x.*unnormalised p.*compare keeps them apart"
SCALE = "Site 'z', 'x': poutine.scale has it scale 0.01.*--objective.beta.*--kl_weight"
CODES = ("samples", "reconstructions")

CASES: dict[str, Case] = {
    "scale": Case(Scaled, SCALE),
    "factor": Case(Tied, FACTOR),
    "deterministic": Case(Deterministic),
    "plate of its own": Case(lambda: Tilted(3)),
    "plate of the batch's size": Case(lambda: Tilted(SIZE // 2)),
    "binary code": Case(BinaryCode, pictures=CODES),
    "one-hot class": Case(OneHot, None, Elbo(estimator=Enumerate()), CODES),
    "class in the model alone": Case(Clusters, None, TraceEnum_ELBO(max_plate_nesting=1)),
    "image and label": Case(Label, pictures=("samples", "samples-y", "reconstructions")),
    "flat observation": Case(Flat),
    "side target": Case(Target, pictures=("samples", "samples-ink", "reconstructions")),
    "frozen layer": Case(Frozen),
    "sites that come and go": Case(Steps, pictures=("samples-x_0", "samples-x_1")),
}


def data(name: str) -> Dataset:
    bits = torch.bernoulli(torch.full((2 * SIZE, *SHAPE), 0.4))
    if name.startswith("sites that"):
        bits = torch.bernoulli(torch.full((2 * SIZE, 3, PIXELS), 0.4))
        given = (torch.cat([torch.ones(SIZE), torch.randint(1, 4, (SIZE,))]),)
    else:
        given = (torch.arange(2 * SIZE) % 10,) if name == "image and label" else ()
    split = Split(bits, Binary(), given=given)
    return Dataset(name, split, split, split)


@pytest.mark.parametrize("name", CASES)
def test_from_check_to_pictures(name: str, tmp_path: Path) -> None:
    case, records = CASES[name], data(name)
    both = case.make()
    split = records.train
    first = split.batch(slice(SIZE // 2, SIZE // 2 + SIZE))
    found = check(both.model, both.guide, first, split.view)
    assert [each.kind for each in found] == ["note"] * (case.note is not None)
    if case.note:
        assert re.search(case.note, found[0])
    frozen = {n: v.clone() for n, v in both.named_parameters() if not v.requires_grad}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The pair cannot carry")
        svi = SVI(both.model, both.guide, objective=case.objective)
        trace = fit(svi, records, epochs=2, batch_size=16, show_progress=False)
        measured = evaluate(
            both.model, both.guide, split, particles=30, data_size=len(split), show_progress=False
        )
        diagnose(both.model, both.guide, split)
    assert all(math.isfinite(row.elbo) for row in trace.rows)
    assert measured.log_px.isfinite().all()
    plain = -PIXELS * math.log(2) * (2 if name.startswith("sites") else 1)
    assert 2 * plain < float(measured.log_px.mean()) < plain / 2
    for key, value in frozen.items():
        assert torch.equal(value, both.get_parameter(key)), key
        assert not both.get_parameter(key).requires_grad
    assert bool(frozen) == any(
        not v.requires_grad for v in tensors_of(both.model, both.guide, first).named.values()
    )
    drawn = {path.stem for path in save_pictures(both.model, both.guide, split, tmp_path, rows=4)}
    assert {*case.pictures} <= drawn
    assert not {path for path in drawn if "weight" in path or path.endswith("-p")}
    assert all((tmp_path / f"{each}.png").stat().st_size > 1000 for each in drawn)
