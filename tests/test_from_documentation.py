"""The kinds of pairs of Pyro's documentation: Pyro's values, and the whole way to an evaluation."""

import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from inference import SVI, DataSize, Elbo, evaluate, fit, log_weights
from inference.check import check
from inference.data import Dataset, Split
from inference.evaluation.validation import Validator
from inference.objectives import FromPyro
from inference.programs import as_tuple, evaluating
from inference.stores import param_store

from .pyro_pairs import BROUGHT, SIZE, Brought
from .test_scripts import call


@pytest.fixture(params=BROUGHT, ids=lambda name: name.replace(" ", "-"))
def brought(request: pytest.FixtureRequest) -> Iterator[Brought]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The pair cannot carry")
        warnings.filterwarnings("ignore", ".*no closed form|.*unnormalized|.*found vars in model")
        yield BROUGHT[request.param]()


def value_and_gradients(loss: Any, parameters: dict[str, Tensor]) -> tuple[float, list[Any]]:
    """Differentiate a loss, or take what Pyro's own backward pass left."""
    value = loss()
    if isinstance(value, Tensor) and value.requires_grad:
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        return value.item(), list(found)
    return float(value), [parameter.grad for parameter in parameters.values()]


@pytest.mark.parametrize("data_size", [SIZE, 4 * SIZE])
@pytest.mark.parametrize("plain", [True, False])
def test_loss_and_gradients_are_pyros(brought: Brought, plain: bool, data_size: int) -> None:
    """Per datum: the sum divided by the batch, what all data share by the training data."""
    if data_size > SIZE and brought.shared is None:
        pytest.skip("no site that all data share")
    svi = SVI(brought.model, brought.guide)
    svi.prepare(brought.x)
    elbo = Trace_ELBO() if plain and not brought.sums else brought.elbo()
    objective = Elbo() if plain else FromPyro(elbo)
    batch = as_tuple(brought.x)
    model, guide = (_with_shared(p, SIZE / data_size) for p in (brought.model, brought.guide))

    def mine() -> Tensor:
        with DataSize(data_size):
            return objective(brought.model, brought.guide, brought.x).loss

    def theirs() -> Tensor | float:
        with param_store(brought.model), pyro.validation_enabled(False):
            if hasattr(elbo, "differentiable_loss"):
                return elbo.differentiable_loss(model, guide, *batch)
            return elbo.loss_and_grads(model, guide, *batch)

    results = []
    for loss in (mine, theirs):
        for parameter in svi.parameters.values():
            parameter.grad = None
        pyro.set_rng_seed(3)
        results.append(value_and_gradients(loss, svi.parameters))
    (value, found), (total, expected) = results
    assert value == pytest.approx(total / SIZE, rel=2e-6, abs=2e-6)
    for name, one, other in zip(svi.parameters, found, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other / SIZE, rtol=1e-4, atol=1e-5, msg=name)


class Shared(poutine.messenger.Messenger):
    """Scale what lies in no plate of the data, as the data plate's N / B does to the rest."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def _pyro_sample(self, msg: Any) -> None:
        names = [frame.name for frame in msg["cond_indep_stack"]]
        if not {"data", "documents", "batch", "z_minibatch"} & {*names}:
            msg["scale"] = msg["scale"] * self.by


class Scaleless(poutine.messenger.Messenger):
    """Take every scale away."""

    def _pyro_post_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


def _with_shared(program: Any, by: float) -> Any:
    def scaled(*batch: Tensor) -> None:
        with Shared(by):
            program(*batch)

    return program if by == 1 else scaled


def test_log_weights_are_those_of_conditioning_by_hand(brought: Brought) -> None:
    """No scale is in them, and sums are those of tests/test_summed.py."""
    svi = SVI(brought.model, brought.guide)
    svi.prepare(brought.x)
    batch = as_tuple(brought.x)
    with evaluating(brought.model, brought.guide), param_store(brought.model):
        found = log_weights(brought.model, brought.guide, brought.x)
        if found.summed:
            pytest.skip("a site is summed out")
        held = poutine.condition(data=dict(found.draws))
        with held, Scaleless():
            joint, posterior = (
                poutine.trace(program).get_trace(*batch).log_prob_sum()
                for program in (brought.model, brought.guide)
            )
    total = float((found.reconstruction - found.kl).sum())
    assert total == pytest.approx(float(joint - posterior), rel=1e-5, abs=1e-4)


def test_check_finds_no_fault(brought: Brought) -> None:
    found = check(brought.model, brought.guide, brought.x)
    if brought.whole:
        assert "use it with the whole data as one batch" in found[0]
        return
    assert [each for each in found if each.kind == "fault"] == []
    assert bool(found) == (brought.note is not None)
    assert brought.note is None or brought.note in found[0]


def test_training_and_evaluation(brought: Brought) -> None:
    """From Pyro's ELBO and optimiser to validation and bounds on log p(x)."""
    batch = as_tuple(brought.x)
    split = Split(batch[0], given=batch[1:])
    data = Dataset("six", split, split, split)
    optimiser = pyro.optim.Adam({"lr": 0.01})  # type: ignore[attr-defined]
    svi = SVI(brought.model, brought.guide, optimiser, brought.elbo())
    size = SIZE if brought.whole else SIZE // 2
    trace = fit(svi, data, epochs=2, batch_size=size, show_progress=False)
    assert len(trace.split("valid")) == 2
    assert svi.data_size == SIZE
    found = Validator(brought.model, brought.guide, split, data_size=SIZE)()
    assert found.elbo == pytest.approx(found.reconstruction - found.kl)
    measure = partial(evaluate, brought.model, brought.guide, split, show_progress=False)
    if brought.shared is not None:
        with pytest.raises(ValueError, match=rf"{brought.shared}.* lies outside.*data_size=len"):
            measure()
    if brought.whole:
        with pytest.raises(ValueError, match=r"batch of 6, and not on one.*Take 1 particle"):
            measure(particles=5, data_size=SIZE)
    particles = 1 if brought.whole else 5
    result = measure(particles=particles, data_size=SIZE if brought.shared else None)
    assert result.log_px.isfinite().all()
    assert (result.log_px >= result.elbo - 1e-5).all()


FILE = """
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import nn

KIND = {kind!r}


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(4, 64), nn.Linear(64, 2)
        self.classifier = nn.Linear(64, 3) if KIND == "enumerated" else None

    def model(self, x):
        pyro.module("both", self)
        tilt = 0.0
        if KIND == "global":
            with pyro.plate("pixels", 64):
                tilt = pyro.sample("tilt", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            y = x.new_zeros(3)
            if KIND == "enumerated":
                y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)))
            shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            code = torch.cat([z.expand(*shape, 1), y.expand(*shape, 3)], -1)
            logits = (self.decoder(code) + tilt).reshape(*shape, 1, 8, 8)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x):
        if KIND == "global":
            with pyro.plate("pixels", 64):
                pyro.sample("tilt", dist.Normal(pyro.param("at", torch.zeros(64)), 0.1))
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
            if KIND == "enumerated":
                pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x.flatten(1))))
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def pair(event_shape):
    both = Both()
    return both.model, config_enumerate(both.guide, "parallel", expand=True)
"""


@pytest.mark.parametrize("kind", ["plain", "enumerated", "global"])
def test_the_commands(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class of methods with Pyro's own ELBO, from a file to an evaluation, or to why not."""
    (tmp_path / "mine.py").write_text(FILE.format(kind=kind))
    elbo = ["--objective", "TraceEnum_ELBO", "--objective.max_plate_nesting", 1]
    words = ["--data", "digits", "--pair", tmp_path / "mine.py", "--run", tmp_path / "run"]
    call("train", *words, "--epochs", 1, *(elbo if kind != "plain" else []))
    call("evaluate", tmp_path / "run", "--particles", 3)
    out = capsys.readouterr().out
    assert "log_px" in out
    assert ("Note: All data share site 'tilt'" in out) == (kind == "global")


ROOT = Path(__file__).parents[1]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


PAGES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if set(blocks(page)) - set(blocks(ROOT / "README.md"))  # which has a test of its own
    and page.stem not in ("tutorial", "comparing")  # so have these, among runs
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages_run(page: Path) -> None:
    """The code of a page, block after block, as a reader would copy it."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_table_of_the_page_has_every_row() -> None:
    (text,) = (page.read_text() for page in PAGES if page.stem == "coming-from-pyro")
    kinds = {name.partition(", ")[0] for name in BROUGHT}
    assert [kind for kind in kinds if f"`{kind}" not in text] == []
