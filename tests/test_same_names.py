"""What a program is called by: names that two modules share, methods, hooks, calls of its own."""

from collections.abc import Callable
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO
from pyro.infer.reparam import AutoReparam, LocScaleReparam
from pyro.nn import PyroModule
from torch import Tensor, nn

from inference import SVI, Elbo, check, log_weights

B, Z, D = 16, 2, 5


def halves(base: type[nn.Module], decoder: str = "net", encoder: str = "net") -> tuple[Any, Any]:
    """Return a pair of modules whose networks have these names."""

    class Model(base):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, decoder, nn.Linear(Z, D))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
                mean = getattr(self, decoder)(z)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    class Guide(base):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, encoder, nn.Linear(D, 2 * Z))

        def forward(self, x: Tensor) -> None:
            loc, log_scale = getattr(self, encoder)(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    pyro.set_rng_seed(0)
    return Model(), Guide()


PROGRAMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda module: module,
    "method": lambda module: module.forward,
    "lambda": lambda module: lambda x: module(x),
    "mask": lambda module: poutine.mask(module, mask=True),
    "reparam": lambda module: poutine.reparam(module, config={}),
    "AutoReparam": lambda module: AutoReparam(centered=1.0)(module),
    "trace": lambda module: poutine.trace(module),
}


@pytest.mark.parametrize("wrap", PROGRAMS)
@pytest.mark.parametrize("base", [PyroModule, nn.Module])
@pytest.mark.parametrize(
    "elbo", [Elbo, TraceGraph_ELBO, lambda: RenyiELBO(alpha=0, num_particles=3)]
)
def test_names_that_both_halves_use_change_no_step(
    elbo: Callable[[], Any], base: type[nn.Module], wrap: str
) -> None:
    """A step of SGD at rate 1 is the same whatever the attributes are called, and none is 0."""
    if wrap == "lambda" and base is nn.Module:
        pytest.skip("a function announces a network by pyro.module, or is refused")
    moved: list[list[Tensor]] = []
    for names in (("net", "net"), ("dec", "enc")):
        model, guide = halves(base, *names)
        x = torch.randn(B, D)
        before = [p.detach().clone() for half in (model, guide) for p in half.parameters()]
        programs = PROGRAMS[wrap](model), PROGRAMS[wrap](guide)
        assert not check(*programs, x)
        svi = SVI(*programs, lambda p: torch.optim.SGD(p, lr=1.0), elbo(), compile="off")
        svi.prepare(x)
        pyro.set_rng_seed(1)
        svi.step(x)
        after = [p.detach() for half in (model, guide) for p in half.parameters()]
        moved.append([b - a for a, b in zip(before, after, strict=True)])
        pyro.clear_param_store()
    for one, other in zip(*moved, strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


@pytest.mark.parametrize("base", [PyroModule, nn.Module])
@pytest.mark.parametrize("elbo", [TraceGraph_ELBO, lambda: RenyiELBO(alpha=0, num_particles=3)])
def test_a_backward_pass_of_pyro_is_per_datum_and_whole(
    elbo: Callable[[], Any], base: type[nn.Module]
) -> None:
    """The gradients are Pyro's own, over B, of each parameter, announced or not."""
    model, guide = halves(base, "dec", "enc")
    x = torch.randn(B, D)
    parameters = [*model.parameters(), *guide.parameters()]
    before = [p.detach().clone() for p in parameters]
    svi = SVI(model, guide, lambda p: torch.optim.SGD(p, lr=1.0), elbo(), compile="off")
    svi.prepare(x)
    pyro.set_rng_seed(1)
    svi.step(x)
    steps = [b - a.detach() for a, b in zip(parameters, before, strict=True)]
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    assert not [name for name in pyro.get_param_store() if name.startswith("_")]

    def stated(program: nn.Module, name: str) -> Callable[[Tensor], None]:
        def call(x: Tensor) -> None:
            pyro.module(name, program)
            program(x)

        return call

    pyro.set_rng_seed(1)
    elbo().loss_and_grads(stated(model, "m"), stated(guide, "g"), x)
    for step, parameter in zip(steps, parameters, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(step, parameter.grad / B, rtol=1e-5, atol=1e-6)


def test_running_averages_of_pyro_are_state_and_no_parameters() -> None:
    """A decaying average as in Pyro's tutorial: its steps; a copy of the state goes on alike."""

    def pair() -> tuple[Any, Any]:
        class Model(PyroModule):
            def __init__(self) -> None:
                super().__init__()
                self.dec = nn.Linear(1, D)

            def forward(self, x: Tensor) -> None:
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Bernoulli(0.5))
                    mean = self.dec(z.unsqueeze(-1))
                    pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        class Guide(PyroModule):
            def __init__(self) -> None:
                super().__init__()
                self.enc = nn.Linear(D, 1)

            def forward(self, x: Tensor) -> None:
                baseline: Any = {"use_decaying_avg_baseline": True, "baseline_beta": 0.9}
                with pyro.plate("data", len(x)):
                    logits = self.enc(x).squeeze(-1)
                    pyro.sample(
                        "z",
                        dist.Bernoulli(logits=logits),
                        infer=cast("Any", {"baseline": baseline}),
                    )

        pyro.set_rng_seed(0)
        return Model(), Guide()

    def rate(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    model, guide = pair()
    x = torch.randn(B, D)
    svi = SVI(model, guide, rate, TraceGraph_ELBO(), compile="off")
    pyro.set_rng_seed(9)
    svi.prepare(x)  # which runs the objective once, as it does for every baseline
    pyro.set_rng_seed(1)
    for _ in range(3):
        svi.step(x)
    held = svi.state_dict()
    assert any("baseline_avg" in name for name in held["objective"])

    other, second = pair()
    optimizer = cast("Any", pyro.optim).SGD({"lr": 0.1 / B})
    pyro.set_rng_seed(9)
    TraceGraph_ELBO().loss_and_grads(other, second, x)
    for parameter in (*other.parameters(), *second.parameters()):
        parameter.grad = None
    pyro.set_rng_seed(1)
    theirs = pyro.infer.SVI(other, second, optimizer, TraceGraph_ELBO())
    for _ in range(3):
        theirs.step(x)
    for one, two in zip(guide.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    pyro.clear_param_store()

    copied = pair()
    again = SVI(*copied, rate, TraceGraph_ELBO(), compile="off")
    again.prepare(x)
    again.load_state_dict(held)
    for each in (svi, again):
        pyro.set_rng_seed(2)
        each.step(x)
    for one, two in zip(guide.parameters(), copied[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_call_that_does_more_than_forward_is_the_program() -> None:
    model, guide = halves(PyroModule)
    x = torch.randn(B, D)

    class Halved(type(model)):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with poutine.scale(scale=0.5):
                return super().__call__(*args, **kwargs)

    halved = Halved()
    hooked, _ = halves(PyroModule)
    hooked.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    for program in (halved, hooked):
        with torch.no_grad():
            pyro.set_rng_seed(3)
            ours = Elbo()(program, guide, x).loss
            pyro.set_rng_seed(3)
            theirs = Trace_ELBO().loss(program, guide, x) / B
        assert float(ours) == pytest.approx(theirs, rel=1e-6)
    assert any("has it scale 0.5" in str(each) for each in check(halved, guide, x))
    assert not check(hooked, guide, x)


def test_methods_of_one_object_are_asked_apart_whether_particles_fit() -> None:
    """One method takes softmax(dim=1), the topics of a datum, or under a plate the data's."""

    class Topics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dec, self.enc = nn.Linear(Z, D), nn.Linear(D, 2 * Z)

        def plain(self, x: Tensor) -> None:
            self._of(x, lambda z: z)

        def topics(self, x: Tensor) -> None:
            self._of(x, lambda z: z.softmax(1))

        def _of(self, x: Tensor, squash: Callable[[Tensor], Tensor]) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.dec(squash(z)), 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            loc, log_scale = self.enc(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    pyro.set_rng_seed(0)
    pair, x = Topics(), torch.randn(B, D)
    log_weights(pair.plain, pair.guide, x, 2)
    with pytest.warns(UserWarning, match="cannot carry a particle dimension"):
        log_weights(pair.topics, pair.guide, x, 2)


def test_particles_are_asked_for_each_kind_of_batch() -> None:
    """The usual semi-supervised pair: y is drawn where it is not given, and joined to z."""

    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dec, self.enc = nn.Linear(Z + 3, D), nn.Linear(D + 3, 2 * Z)

        def model(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
                y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(3)), obs=y)
                mean = self.dec(torch.cat([z, y], -1))
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x)):
                if y is None:
                    y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(len(x), 3)))
                loc, log_scale = self.enc(torch.cat([x, y], -1)).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    x, y = torch.randn(B, D), torch.eye(3)[torch.arange(B) % 3]
    for batches in ((x, (x, y)), ((x, y), x)):
        pair = Classes()
        for batch in batches:
            assert log_weights(pair.model, pair.guide, batch, 4).total.shape == (4, B)


def test_a_reparametrised_model_trains_its_decoder() -> None:
    model, _ = halves(PyroModule)
    centred = poutine.reparam(model, config={"z": LocScaleReparam(0.0)})

    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(D, 2 * Z)

        def forward(self, x: Tensor) -> None:
            loc, log_scale = self.net(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z_decentered", dist.Normal(loc, log_scale.exp()).to_event(1))

    svi = SVI(centred, Guide())
    svi.prepare(torch.randn(B, D))
    trained = {id(value) for value in svi.parameters.values()}
    assert {id(value) for value in model.parameters()} <= trained


def test_plate_of_the_data_may_have_another_name_in_the_guide() -> None:
    """Pyro takes it, and the numbers are those of the same pair with one name."""
    model, _ = halves(PyroModule)
    encoder = nn.Linear(D, 2 * Z)
    x = torch.randn(B, D)
    values: list[Tensor] = []
    for plate in ("data", "batch"):

        def guide(x: Tensor, plate: str = plate) -> None:
            pyro.module("encoder", encoder)
            loc, log_scale = encoder(x).chunk(2, -1)
            with pyro.plate(plate, len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        assert not check(model, guide, x)
        pyro.set_rng_seed(6)
        values.append(log_weights(model, guide, x, 3).total)
    assert torch.equal(*values)
