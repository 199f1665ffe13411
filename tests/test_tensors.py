"""A pair's tensors: what the loss reaches is trained and saved, what is frozen stays frozen."""

import copy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from inference import SVI, Elbo, ScoreFunction, check, evaluate
from inference.data import AsIs, Dataset, Split
from inference.evaluation import prior_samples, reconstructions
from inference.programs import evaluating
from inference.reached import Unregistered
from inference.references import Reachable
from inference.registrations import registrations
from inference.runs import Run
from inference.stores import param_store
from inference.tensors import tensors_of
from inference.training import fit

from .test_scripts import call

Z, X = 2, 6
OLD_RUN = Path(__file__).parent / "data" / "run-0.1"


class Two(NamedTuple):
    """A pair."""

    model: Any
    guide: Any


def batch(size: int = 12) -> Tensor:
    return torch.randn(size, X, generator=torch.Generator().manual_seed(1))


def data() -> Dataset:
    train, valid, test = (Split(batch(n), AsIs()) for n in (24, 12, 12))
    return Dataset("noise", train, valid, test)


class Model(PyroModule):
    """A decoder that a case may replace."""

    def __init__(self, decoder: Any = None) -> None:
        super().__init__()
        self.decoder = nn.Linear(Z, X) if decoder is None else decoder

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    """An encoder that a case may replace."""

    def __init__(self, encoder: Any = None) -> None:
        super().__init__()
        self.encoder = nn.Linear(X, Z) if encoder is None else encoder

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encode(x), 1.0).to_event(1))


def program_of(code: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Return a guide that is a plain function."""

    def guide(x: Tensor) -> None:
        loc = code(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return guide


# What the loss reaches and nobody registers.


class _List(Guide):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(X, Z)]

    def encode(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


class _Dict(Guide):
    def __init__(self) -> None:
        super().__init__()
        self.layers = {"deep": nn.Linear(X, Z)}

    def encode(self, x: Tensor) -> Tensor:
        return self.layers["deep"](x)


class _Tensor(Guide):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.zeros(Z, requires_grad=True)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x) + self.shift


class _Anew(Guide):
    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x) + nn.Linear(X, Z)(x)


def forgotten() -> Two:
    encoder = nn.Linear(X, Z)
    return Two(Model(), program_of(lambda x: encoder(x)))


def forgotten_tensor() -> Two:
    shift = torch.zeros(Z, requires_grad=True)
    return Two(Model(), program_of(lambda x: x[:, :Z] + shift))


def anew() -> Two:
    def code(x: Tensor) -> Tensor:
        encoder = nn.Linear(X, Z)
        pyro.module("encoder", encoder)  # the store keeps the first one's weights
        return encoder(x)

    return Two(Model(), program_of(code))


UNREGISTERED: dict[str, tuple[Callable[[], Two], str]] = {
    "list": (lambda: Two(Model(), _List()), r"guide\.layers\.0\.weight.*ModuleList"),
    "dict": (lambda: Two(Model(), _Dict()), r"guide\.layers\.deep\.weight.*ModuleDict"),
    "attribute": (lambda: Two(Model(), _Tensor()), r"guide\.shift.*nn\.Parameter"),
    "function": (forgotten, r"guide\.code\.encoder\.weight.*pyro\.module\(name, network\)"),
    "closure": (forgotten_tensor, r"guide\.code\.shift.*pyro\.param"),
    "anew in a module": (
        lambda: Two(Model(), _Anew()),
        r"a Linear's 'weight' of shape \(2, 6\).*anew.*Make the network once",
    ),
    "anew in a function": (anew, r"a Linear's 'weight' of shape \(2, 6\).*anew"),
    "lambda": (
        lambda: Two((lambda module: lambda x: module(x))(plain()), Guide()),
        r"model\.module\.decoder\.weight",
    ),
}


def plain() -> nn.Module:
    """A module of torch's that is a program."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(Z, X)

        forward = Model.forward
        decode = Model.decode

    return Plain()


@pytest.mark.parametrize("case", UNREGISTERED)
def test_pair_whose_loss_reaches_more_than_is_trained_is_refused(case: str) -> None:
    make, words = UNREGISTERED[case]
    two = make()
    for objective in (Elbo(), Elbo(3), pyro.infer.Trace_ELBO(), pyro.infer.RenyiELBO()):
        with pytest.raises(Unregistered, match=words):
            SVI(*two, objective=objective).prepare(batch())
    with pytest.raises(Unregistered, match=words):
        tensors_of(*two, batch())
    (fault,) = check(*two, batch())
    assert "neither trained nor saved" in fault


@pytest.mark.parametrize("case", [case for case in UNREGISTERED if "anew" not in case])
def test_frozen_it_is_accepted(case: str) -> None:
    two = UNREGISTERED[case][0]()
    for value in _unregistered(two):
        value.requires_grad_(False)
    SVI(*two).prepare(batch())


def _unregistered(two: Two) -> list[Tensor]:
    known = {id(p) for program in two for p in getattr(program, "parameters", list)()}
    found = Reachable([("model", two.model), ("guide", two.guide)]).tensors
    return [tensor for tensor, *_ in found if id(tensor) not in known]


def test_leaf_that_the_guide_makes_on_the_way_is_no_parameter() -> None:
    def refined(x: Tensor) -> Tensor:
        loc = pyro.param("loc", torch.zeros(Z))
        start = torch.zeros(len(x), Z, requires_grad=True)
        (slope,) = torch.autograd.grad((start - 1).square().sum(), start, create_graph=True)
        return loc + start - 0.1 * slope

    svi = SVI(Model(), program_of(refined))
    svi.prepare(batch())
    assert [*svi.parameters] == ["model.decoder.weight", "model.decoder.bias", "param.loc"]


def test_parameter_that_a_handler_hides_is_trained() -> None:
    hidden = poutine.block(lambda: pyro.param("loc", torch.ones(Z)))
    svi = SVI(Model(), program_of(lambda x: x[:, :Z] + hidden()), compile="off")
    svi.prepare(batch())
    before = svi.parameters["param.loc"].clone()
    svi.step(batch())
    assert not torch.equal(svi.parameters["param.loc"], before)


# What is frozen.


def frozen_sub_module() -> Two:
    linear: Any = PyroModule[nn.Linear]
    first = linear(Z, Z).requires_grad_(False)
    sequential: Any = PyroModule[nn.Sequential]
    return Two(Model(sequential(first, nn.Linear(Z, X))), Guide())


def frozen_plain_module() -> Two:
    return Two(
        Model(), Guide(nn.Sequential(nn.Linear(X, X), nn.Linear(X, Z)).requires_grad_(False))
    )


def partly_frozen() -> Two:
    two = Two(Model(), Guide())
    two.guide.encoder.weight.requires_grad_(False)
    return two


def frozen_gain() -> Two:
    class M(Model):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(Z), requires_grad=False)

        def decode(self, z: Tensor) -> Tensor:
            return self.decoder(z * self.gain)

    return Two(M(), Guide())


def frozen_pyro_param() -> Two:
    class G(Guide):
        def __init__(self) -> None:
            super().__init__()
            self.width = PyroParam(torch.ones(Z), constraint=dist.constraints.positive)
            self.width_unconstrained.requires_grad_(False)

        def encode(self, x: Tensor) -> Tensor:
            width: Any = self.width
            return self.encoder(x) * width

    return Two(Model(), G())


def frozen_statement() -> Two:
    gain = nn.Parameter(torch.ones(Z), requires_grad=False)
    encoder = nn.Linear(X, Z)

    def code(x: Tensor) -> Tensor:
        pyro.module("encoder", encoder)
        return encoder(x) * pyro.param("gain", gain)

    return Two(Model(), program_of(code))


def frozen_announced() -> Two:
    encoder = nn.Sequential(nn.Linear(X, X).requires_grad_(False), nn.Linear(X, Z))

    def code(x: Tensor) -> Tensor:
        pyro.module("encoder", encoder)
        return encoder(x)

    return Two(Model(), program_of(code))


def frozen_behind_handlers() -> Two:
    two = frozen_gain()
    return Two(poutine.scale(two.model, 0.5), config_enumerate(partly_frozen().guide))


FROZEN: dict[str, Callable[[], Two]] = {
    "PyroModule": frozen_sub_module,
    "encoder": frozen_plain_module,
    "weight": partly_frozen,
    "parameter": frozen_gain,
    "PyroParam": frozen_pyro_param,
    "pyro.param": frozen_statement,
    "pyro.module": frozen_announced,
    "handlers": frozen_behind_handlers,
}


def flags(two: Two) -> dict[str, tuple[bool, list[Any]]]:
    found = Reachable([("model", two.model), ("guide", two.guide)]).tensors
    kept = {place: (t.requires_grad, t.tolist()) for t, *_, place in found}
    return {place: value for place, value in kept.items() if not value[0]}


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
@pytest.mark.parametrize("case", FROZEN)
def test_frozen_stays_frozen(case: str) -> None:
    two = FROZEN[case]()
    before = flags(two)
    assert before

    with param_store(two.model):
        poutine.trace(two.guide).get_trace(batch())
        poutine.trace(two.model).get_trace(batch())
    assert flags(two) == before, "tracing"
    check(*two, batch())
    assert flags(two) == before, "check"
    svi = SVI(*two, compile="off")
    svi.prepare(batch())
    assert flags(two) == before, "prepare"
    fit(svi, data(), epochs=2, batch_size=6, show_progress=False)
    assert flags(two) == before, "fit"
    svi.load_state_dict(copy.deepcopy(svi.state_dict()))
    assert flags(two) == before, "loading"
    evaluate(*two, data().test, particles=2, show_progress=False)
    prior_samples(two.model, batch())
    reconstructions(*two, batch())
    assert flags(two) == before, "evaluation"


@pytest.mark.parametrize("how", ["off", "graph"])
def test_parameter_frozen_between_steps_stops_and_goes_on_when_thawed(how: Any) -> None:
    two = Two(Model(), Guide())
    svi = SVI(*two, compile=how)
    weight = two.guide.encoder.weight
    moved = []
    for learns in (True, False, True):
        weight.requires_grad_(learns)
        before = weight.detach().clone()
        for _ in range(3):
            svi.step(batch())
        moved.append(not torch.equal(weight, before))
        assert weight.requires_grad is learns
        assert ("guide.encoder.weight" in svi.parameters) is learns
        assert "guide.encoder.weight" in svi.weights()
    assert moved == [True, False, True]


def test_frozen_weights_are_saved_and_loaded() -> None:
    two, other = frozen_gain(), frozen_gain()
    two.model.gain.data.fill_(2.0)
    weights = tensors_of(*two, batch()).weights()
    tensors_of(*other, batch()).load(weights)
    assert other.model.gain.tolist() == [2.0, 2.0]


# Modules behind programs.


def normed() -> Guide:
    return Guide(nn.Sequential(nn.Linear(X, Z), nn.BatchNorm1d(Z), nn.Dropout(0.5)))


def in_a_function() -> Two:
    encoder = normed().encoder

    def code(x: Tensor) -> Tensor:
        pyro.module("encoder", encoder)
        return encoder(x)

    return Two(Model(), program_of(code))


BEHIND: dict[str, tuple[Callable[[], Two], str]] = {
    "module": (lambda: Two(Model(), normed()), "guide.encoder"),
    "function": (in_a_function, "guide.code.encoder"),
    "partial": (lambda: Two(Model(), partial(normed())), "guide.encoder"),
    "lambda": (lambda: Two(Model(), (lambda m: lambda x: m(x))(normed())), "guide.m.encoder"),
    "config_enumerate": (lambda: Two(Model(), config_enumerate(normed())), "guide.encoder"),
    "poutine.scale": (lambda: Two(Model(), poutine.scale(normed(), 0.5)), "guide.encoder"),
    "two handlers": (
        lambda: Two(Model(), poutine.scale(config_enumerate(normed()), 0.5)),
        "guide.encoder",
    ),
    "method": (lambda: Two(Model(), normed().forward), "guide.encoder"),
}


@pytest.mark.parametrize("case", BEHIND)
def test_modules_behind_programs_are_evaluated_and_saved(case: str) -> None:
    make, place = BEHIND[case]
    two = make()
    svi = SVI(*two, compile="off")
    for _ in range(3):
        svi.step(batch())
    saved = svi.weights()
    mean = f"{place}.1.running_mean"
    assert mean in saved
    assert len({value.data_ptr() for value in svi.tensors().values()}) == len(svi.tensors())
    values = []
    for _ in range(2):
        pyro.set_rng_seed(1)
        values.append(svi.evaluate(batch()).bound.item())
    assert values[0] == values[1]
    assert check(*two, batch()) == [] or "scale" in case or "handlers" in case
    evaluate(*two, data().test, particles=2, show_progress=False)
    assert all(torch.equal(value, saved[name]) for name, value in svi.weights().items())
    pyro.clear_param_store()
    other = make()
    tensors_of(*other, batch()).load(saved)
    with evaluating(*other), param_store(other.model):
        pyro.set_rng_seed(1)
        a = poutine.trace(other.guide).get_trace(batch()).nodes["z"]["fn"].mean
    pyro.clear_param_store()
    svi.load_weights(saved)
    with evaluating(*two):
        b = poutine.trace(two.guide).get_trace(batch()).nodes["z"]["fn"].mean
    torch.testing.assert_close(a, b)


def test_plain_module_behind_a_handler_is_trained() -> None:
    svi = SVI(poutine.scale(plain(), 0.5), partial(Guide()), compile="off")
    svi.prepare(batch())
    names = {"model.decoder.weight", "model.decoder.bias"}
    assert names < svi.parameters.keys()
    before = svi.weights()
    svi.step(batch())
    after = svi.weights()
    assert not any(torch.equal(before[name], after[name]) for name in names)


def test_buffer_that_is_assigned_anew_is_saved_as_it_is_now() -> None:
    class G(Guide):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(X))

        def encode(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return self.encoder(x - self.mean)

    two = Two(Model(), G())
    svi = SVI(*two, compile="off")
    for _ in range(3):
        svi.step(batch())
    assert torch.equal(svi.weights()["guide.mean"], two.guide.mean)
    other = Two(Model(), G())
    tensors_of(*other, batch()).load(svi.weights())
    assert torch.equal(other.guide.mean, two.guide.mean)


# What is made too late.


def by_length(x: Tensor) -> Tensor:
    return x[:, :Z] + pyro.param(f"loc_{len(x)}", torch.zeros(Z))


class _Late(Guide):
    def encode(self, x: Tensor) -> Tensor:
        if len(x) == 5 and not hasattr(self, "late"):
            self.late = nn.Linear(X, Z)
        return self.late(x) if len(x) == 5 else self.encoder(x)


class _LateParameter(Guide):
    def encode(self, x: Tensor) -> Tensor:
        if len(x) == 5 and not hasattr(self, "late"):
            self.late = nn.Parameter(torch.zeros(Z))
        return self.encoder(x) + (self.late if len(x) == 5 else 0.0)


LATE: dict[str, tuple[Callable[[], Two], str]] = {
    "pyro.param": (lambda: Two(Model(), program_of(by_length)), r"'param\.loc_5' of shape \(2,\)"),
    "pyro.param in a module": (
        lambda: Two(Model(), Guide(by_length)),
        r"'param\.loc_5' of shape \(2,\)",
    ),
    "layer": (lambda: Two(Model(), _Late()), r"'.*late.weight' of shape \(2, 6\)"),
    "parameter": (lambda: Two(Model(), _LateParameter()), r"'guide\.late' of shape \(2,\)"),
}


@pytest.mark.parametrize("case", LATE)
def test_parameter_made_after_the_first_batch_is_named(case: str) -> None:
    make, words = LATE[case]
    two = make()
    svi = SVI(*two, compile="off")
    svi.step(batch())
    svi.step(batch())
    before = svi.weights()
    with pytest.raises(ValueError, match=rf"Parameter {words}.*first made after the first batch"):
        svi.step(batch(5))
    after = svi.weights()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_another_pair_made_meanwhile_is_no_new_parameter() -> None:
    svi = SVI(Model(), Guide(), compile="off")
    svi.step(batch())
    SVI(Model(), Guide()).step(batch())
    assert svi.step(batch()).loss.isfinite()


# Checkpoints.


def test_state_of_the_objective_has_its_own_key() -> None:
    two = Two(Model(), Guide())
    svi = SVI(*two, objective=Elbo(1, ScoreFunction()), compile="off")
    for _ in range(2):
        svi.step(batch())
    state = svi.state_dict()
    assert state["objective"].keys() == {"total", "weight"}
    assert all(name.startswith(("model.", "guide.")) for name in state["weights"])
    tensors_of(*two, batch()).load(state["weights"])
    old = {
        **state,
        "weights": state["weights"] | {f"objective.{k}": v for k, v in state["objective"].items()},
    }
    del old["objective"]
    again = SVI(Model(), Guide(), objective=Elbo(1, ScoreFunction()), compile="off")
    again.prepare(batch())
    again.load_state_dict(copy.deepcopy(old))
    assert torch.equal(again.state_dict()["objective"]["total"], state["objective"]["total"])


def test_names_of_a_layer_that_both_programs_share_are_one() -> None:
    both = nn.BatchNorm1d(X)
    two = Two(
        Model(nn.Sequential(nn.Linear(Z, X), both)), Guide(nn.Sequential(both, nn.Linear(X, Z)))
    )
    owned = tensors_of(*two, batch())
    weights = owned.weights()
    assert "model.decoder.1.running_mean" in weights
    assert not any(name.startswith("guide.encoder.0") for name in weights)
    # Version 0.1 had a buffer's name for each of the two.
    old = dict(weights)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        old[f"guide.encoder.0.{name}"] = weights[f"model.decoder.1.{name}"]
    owned.load(old)


def test_weights_of_another_pair_are_refused() -> None:
    owned = tensors_of(Model(), Guide(), batch())
    for other in (Model(nn.Linear(Z, X, bias=False)), Model(nn.Sequential(nn.Linear(Z, X)))):
        with pytest.raises(ValueError, match=r"another pair: model\.decoder"):
            owned.load(tensors_of(other, Guide(), batch()).weights())


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A run of two epochs that version 0.1 made; four are asked for."""
    path = tmp_path / "run-0.1"
    shutil.copytree(OLD_RUN, path)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 4", 1))
    return path


def test_run_of_version_0_1_resumes(old_run: Path) -> None:
    """The rows are those that version 0.1 itself went on with; its weights hold 11 batches."""
    call("train", "--resume", old_run)
    run = Run(old_run)
    found = [row.elbo for row in run.trace.split("valid")]
    expected = [-46.3366974, -46.1842189, -46.0386532, -45.9008050]
    assert found == pytest.approx(expected, abs=2e-3)
    saved = run.load()
    assert saved is not None
    assert saved["svi"]["objective"]["weight"] == pytest.approx(1 - 0.95**21, rel=1e-5)


def test_run_of_version_0_1_is_evaluated_and_sampled(old_run: Path) -> None:
    call("evaluate", old_run, "--particles", 5, "--split", "valid")
    evaluation = Run(old_run).evaluation
    assert evaluation is not None
    assert evaluation["elbo"] == pytest.approx(-46.18, abs=0.1)
    call("sample", old_run, "--rows", 2, "--columns", 2)
    assert (old_run / "figures" / "samples.png").exists()


def test_score_function_run_is_evaluated_and_sampled(tmp_path: Path) -> None:
    tiny = ["--epochs", 1, "--decoder.hidden", "[2]", "--encoder.hidden", "[2]"]
    path = tmp_path / "run"
    call("train", "--data", "digits", "--estimator", "ScoreFunction", "--run", path, *tiny)
    call("evaluate", path, "--particles", 2)
    call("sample", path, "--rows", 2, "--columns", 2)


class Sliced(nn.Module):
    """A slice of a list of layers is a new list: layers are registered at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x)
        return x


def test_counting_registrations_makes_torch_compile_compile_once() -> None:
    """Dynamo guards what a hook reads; a count that grows would be another program each time."""
    torch._dynamo.reset()
    seen = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        seen.append(graph)
        return graph.forward

    module, x = Sliced(), torch.ones(1, 2)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    before = registrations()
    for _ in range(20):
        Sliced()
        compiled(x)
    assert registrations() > before
    assert len(seen) == 1
