"""Sites: what the typed record says of each kind of Pyro statement, and who reads what of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from inference import BetaTc, Elbo, FreeBits, KLWeight, StraightThrough, log_weights
from inference.check import check
from inference.data import Split
from inference.evaluation import diagnose
from inference.evaluation.annealing import ais, bdmc
from inference.evaluation.gaps import inference_gaps
from inference.evaluation.generate import prior_samples
from inference.laws import factors
from inference.programs import run, run_at
from inference.sites import Plate, Site, sites, sites_of

MASK: Any = torch.tensor([True, False, True])
ZERO = torch.zeros(2)
X = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])


def statements(x: Tensor) -> None:
    """One statement of each kind, and what can be put around it."""
    pyro.sample("shared", dist.Normal(0.0, 1.0))
    pyro.factor("global term", torch.tensor(-2.0))
    pyro.deterministic("constant", torch.ones(4))
    for i in pyro.plate("loop", 1):
        pyro.sample(f"looped_{i}", dist.Normal(0.0, 1.0))
    data = pyro.plate("data", len(x), dim=-1)
    with pyro.plate("groups", 2, dim=-2), data:
        pyro.sample("in two", dist.Normal(0.0, 1.0))
    with data:
        pyro.sample("plain", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=3.0), poutine.mask(mask=MASK):
            pyro.sample("scaled", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("masked", dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(MASK))
        pyro.sample("extra", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.deterministic("sum", x.sum(-1), event_dim=0)
        pyro.factor("term", x.sum(-1))
        pyro.sample("x", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1), obs=x)


DATA = Plate("data", 3, -1)
TABLE: list[tuple[str, str, float, bool, tuple[Plate, ...], str]] = [
    ("shared", "latent", 1.0, False, (), "Normal"),
    ("global term", "factor", 1.0, False, (), "Unit"),
    ("constant", "deterministic", 1.0, False, (), "Delta"),
    ("looped_0", "latent", 1.0, False, (Plate("loop", 1, None),), "Normal"),
    ("in two", "latent", 1.0, False, (Plate("groups", 2, -2), DATA), "Normal"),
    ("plain", "latent", 1.0, False, (DATA,), "Normal"),
    ("scaled", "latent", 3.0, True, (DATA,), "Normal"),
    ("masked", "latent", 1.0, False, (DATA,), "Normal"),
    ("extra", "latent", 1.0, False, (DATA,), "Normal"),
    ("sum", "deterministic", 1.0, False, (DATA,), "Delta"),
    ("term", "factor", 1.0, False, (DATA,), "Unit"),
    ("x", "observed", 1.0, False, (DATA,), "Bernoulli"),
]


@pytest.mark.parametrize("weight", [None, 0.25, torch.tensor(0.25)], ids=str)
def test_table(weight: float | Tensor | None) -> None:
    """Kinds, own scale under a KL weight, mask, plates and family; nothing of the plates' own."""

    if weight is None:
        found = sites_of(statements, (X,))
    else:
        with KLWeight(weight):
            found = sites_of(statements, (X,))
    assert sorted(found) == sorted(name for name, *_ in TABLE)
    for name, kind, scale, masked, plates, family in TABLE:
        site = found[name]
        assert (site.name, site.kind, site.scale) == (name, kind, scale)
        assert (site.mask is not None) is masked
        assert site.plates == plates
        assert site.in_data_plate(3) is (DATA in plates)
        assert not site.in_data_plate(2)
        assert type(site.base).__name__ == family
        assert site.auxiliary is (name == "extra" or kind == "factor")
        weighed = weight is not None and kind == "latent"
        assert site.kl_weight == (weight if weighed else None)


def test_two_weights_multiply_and_the_scale_stays_the_programs_own() -> None:
    with KLWeight(0.5), KLWeight(0.25), poutine.scale(scale=7.0):
        found = sites_of(statements, (X,))
    assert found["scaled"].kl_weight == 0.125
    assert found["scaled"].scale == 21.0
    assert found["x"].scale == 7.0


def test_log_prob_is_masked_and_the_loss_scales_it() -> None:
    with KLWeight(0.5):
        found = sites_of(statements, (X,))
    site = found["scaled"]
    plain = dist.Normal(0.0, 1.0).log_prob(site.value).sum(-1)
    torch.testing.assert_close(site.log_prob(), torch.where(MASK, plain, 0.0))
    torch.testing.assert_close(site.scaled_log_prob(), torch.where(MASK, 3 * plain, 0.0))
    torch.testing.assert_close(site.score(), plain)
    elsewhere = site.log_prob(torch.zeros(3, 2))
    expected = torch.where(MASK, dist.Normal(0.0, 1.0).log_prob(torch.zeros(3, 2)).sum(-1), 0.0)
    torch.testing.assert_close(elsewhere, expected)
    assert found["masked"].log_prob()[1] == 0
    torch.testing.assert_close(found["term"].log_prob(), X.sum(-1))


def test_log_prob_that_pyro_took_is_not_taken_again() -> None:
    class Once(dist.Normal):
        def log_prob(self, value: Tensor) -> Tensor:
            calls.append(1)
            return super().log_prob(value)

    calls: list[int] = []
    trace = poutine.trace(lambda: pyro.sample("z", Once(0.0, 1.0))).get_trace()
    trace.compute_log_prob()
    site = sites(trace)["z"]
    assert site.log_prob() == dist.Normal(0.0, 1.0).log_prob(site.value)
    assert calls == [1]


def test_unconditioned_and_conditioned_sites() -> None:
    free = sites_of(poutine.uncondition(statements), (X,))
    kinds = {name: site.kind for name, site in free.items()}
    assert (kinds["x"], kinds["sum"], kinds["term"]) == ("latent", "deterministic", "factor")
    assert free["x"].was_observed
    assert not free["plain"].was_observed
    held = sites_of(poutine.condition(statements, data={"plain": torch.zeros(3)}), (X,))
    assert held["plain"].kind == "observed"
    assert torch.equal(held["plain"].value, torch.zeros(3))


def test_deterministic_is_known_without_its_mark() -> None:
    """Pyro marks it in a private key; without the key it is a Delta, all masked."""
    trace = poutine.trace(statements).get_trace(X)
    nodes: dict[str, Any] = {**trace.nodes}
    for node in nodes.values():
        node.get("infer", {}).pop("_deterministic", None)
    marked = sites_of(statements, (X,))
    assert {n: s.kind for n, s in sites(trace).items()} == {n: s.kind for n, s in marked.items()}


def test_observed_delta_is_data() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("all", dist.Delta(x, event_dim=1), obs=x)
            pyro.sample("some", dist.Delta(x, event_dim=1).mask(MASK), obs=x)

    assert {site.kind for site in sites_of(model, (X,)).values()} == {"observed"}


def normal() -> Any:
    return dist.Normal(torch.zeros(3, 2), 1.0)


def torch_normal() -> Any:
    return torch.distributions.Normal(torch.zeros(3, 2), 1.0)


class Wrapped(NamedTuple):
    make: Callable[[], Any]
    event: int
    masked: bool = False


NESTS: dict[str, Wrapped] = {
    "none": Wrapped(normal, 0),
    "Pyro's": Wrapped(lambda: normal().to_event(1), 1),
    "torch's": Wrapped(lambda: torch.distributions.Independent(torch_normal(), 1), 1),
    "Pyro's in Pyro's": Wrapped(lambda: dist.Independent(normal().to_event(1), 1), 2),
    "torch's in Pyro's": Wrapped(
        lambda: dist.Independent(torch.distributions.Independent(torch_normal(), 1), 0), 1
    ),
    "empty": Wrapped(lambda: dist.Independent(normal().to_event(1), 0), 1),
    "masked": Wrapped(lambda: normal().to_event(1).mask(MASK), 1, masked=True),
    "mask within": Wrapped(lambda: normal().mask(MASK.unsqueeze(1)).to_event(1), 1, masked=True),
    "masked twice": Wrapped(
        lambda: normal().mask(MASK.unsqueeze(1)).to_event(1).mask(MASK), 1, masked=True
    ),
    "expanded": Wrapped(
        lambda: dist.TorchDistribution.expand(dist.Normal(torch.zeros(2), 1.0).to_event(1), [3]), 1
    ),
}


@pytest.mark.parametrize("name", NESTS)
def test_wrappers_are_peeled(name: str) -> None:
    """`base` is the family; `factors` keeps the density, so that it stops at a mask."""
    nest = NESTS[name]
    distribution = nest.make()
    site = Site("z", "latent", distribution, distribution.sample())
    assert isinstance(site.base, torch.distributions.Normal)
    assert site.is_real
    assert len(distribution.event_shape) == nest.event
    inner = factors(distribution)
    assert not isinstance(inner, torch.distributions.Independent)
    whole = inner.log_prob(site.value)
    over = tuple(range(len(distribution.batch_shape), whole.dim()))
    torch.testing.assert_close(
        whole.sum(over) if over else whole, distribution.log_prob(site.value)
    )
    if nest.masked:
        assert (distribution.log_prob(site.value) == 0).any()


@pytest.mark.parametrize(
    ("fn", "real"),
    [
        (dist.Normal(0.0, 1.0), True),
        (dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), True),
        (dist.MixtureSameFamily(dist.Categorical(ZERO + 1), dist.Normal(ZERO, 1.0)), True),
        (dist.Gamma(1.0, 1.0), False),
        (dist.Bernoulli(0.5), False),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_is_real(fn: Any, real: bool) -> None:
    assert Site("z", "latent", fn, fn.sample()).is_real is real


def test_replayed_pair_keeps_the_guides_draws() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    pair = run(model, model, (X,))
    assert torch.equal(pair.model["z"].value, pair.guide["z"].value)
    held = run_at(model, model, (X,), {"z": torch.ones(3)})
    assert [half["z"].kind for half in held] == ["observed"] * 2


# --- Deterministic sites and factors: neither densities nor data --------------------------------


def likelihood(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1) * torch.ones(2)).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    shift = pyro.param("shift", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x.sum(-1) + shift, 0.9))


def plain(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        likelihood(x, pyro.sample("z", dist.Normal(0.0, 1.0)))


def outside(x: Tensor) -> None:
    pyro.deterministic("count", torch.tensor(float(len(x))))
    plain(x)


def in_the_plate(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("rate", z.exp(), event_dim=0)
        likelihood(x, z)


def all_event(x: Tensor) -> None:
    """As ``pyro.deterministic`` has it by default: every dimension an event's."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("rate", z.exp())
        likelihood(x, z)


def not_a_number(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("log", torch.full_like(z, torch.nan), event_dim=0)
        likelihood(x, z)


def of_the_data(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("copy", x, event_dim=1)
        likelihood(x, z)


DETERMINISTIC = [outside, in_the_plate, all_event, not_a_number, of_the_data]


class Mass:
    is_mass: bool | None = True
    unit = "nats"


@pytest.mark.parametrize("model", DETERMINISTIC, ids=lambda model: model.__name__)
def test_deterministic_sites_change_nothing(model: Any) -> None:
    """The pair with one says what the pair without one says: checks, weights, samples."""
    assert check(model, guide, X, Mass()) == check(plain, guide, X, Mass()) == []
    for particles in (1, 3):
        torch.manual_seed(0)
        weights = log_weights(model, guide, X, particles)
        torch.manual_seed(0)
        same = log_weights(plain, guide, X, particles)
        assert torch.equal(weights.total, same.total)
        assert set(weights.likelihood) == {"x"}
    assert set(prior_samples(model, X)) == {"x"}


@pytest.mark.parametrize("model", [outside, of_the_data], ids=lambda model: model.__name__)
def test_deterministic_sites_change_no_evaluation(model: Any) -> None:
    few: dict[str, Any] = {"chains": 2, "distributions": 3, "leapfrog": 2, "show_progress": False}
    assert torch.equal(ais(model, guide, X, **few).log_px, ais(plain, guide, X, **few).log_px)
    assert torch.equal(bdmc(model, guide, X, **few).lower, bdmc(plain, guide, X, **few).lower)
    found, same = (diagnose(each, guide, Split(X)).summary() for each in (model, plain))
    assert found == same


def test_deterministic_sites_of_the_guide_change_nothing() -> None:
    def told(x: Tensor) -> None:
        pyro.deterministic("count", torch.tensor(float(len(x))))
        guide(x)

    assert check(plain, told, X) == []
    torch.manual_seed(0)
    weights = log_weights(plain, told, X, 2)
    assert set(weights.guide) == {"z"}
    torch.manual_seed(0)
    assert torch.equal(weights.total, log_weights(plain, guide, X, 2).total)


def test_deterministic_site_is_no_data() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.deterministic("x", pyro.sample("z", dist.Normal(0.0, 1.0)), event_dim=0)

    (fault,) = check(model, guide, X)
    assert fault.startswith("The model observes nothing")


@pytest.mark.filterwarnings("ignore:trying to observe a value outside of inference")
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (lambda z: pyro.deterministic("y", z, event_dim=0), "'y' is deterministic in the model"),
        (lambda z: pyro.factor("y", z), "'y' is a factor in the model"),
        (lambda z: pyro.sample("y", dist.Normal(z, 1.0), obs=z), "'y' is observed in the model"),
    ],
    ids=["deterministic", "factor", "observed"],
)
def test_guide_that_samples_what_the_model_has_no_draw_of(
    statement: Callable[[Tensor], Any], words: str
) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            statement(z)
            likelihood(x, z)

    def both(x: Tensor) -> None:
        guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("y", dist.Normal(0.0, 1.0))

    fault, *notes = check(model, both, X)
    assert words in fault
    assert all(note.kind == "note" for note in notes)


def test_factor_is_a_density_and_no_data() -> None:
    """A term of log p(x, z) that has no unit, no mean and no picture."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            likelihood(x, z)
            pyro.factor("term", torch.full((len(x),), -2.0))

    assert [each.kind for each in check(model, guide, X, Mass())] == ["note"]
    torch.manual_seed(0)
    weights = log_weights(model, guide, X)
    torch.manual_seed(0)
    torch.testing.assert_close(weights.total, log_weights(plain, guide, X).total - 2)
    assert set(prior_samples(model, X)) == {"x"}
    found, same = (diagnose(each, guide, Split(X)).sites["z"] for each in (model, plain))
    assert same.sensitivity is not None
    torch.testing.assert_close(found.sensitivity, same.sensitivity)


# --- One way to take an Independent apart -------------------------------------------------------


def flat(base: Any) -> Any:
    return dist.Independent(base, 1)


def empty_around(base: Any) -> Any:
    return dist.Independent(dist.Independent(base, 1), 0)


def torch_inside(base: Any) -> Any:
    return dist.Independent(torch.distributions.Independent(base, 1), 0)


def coordinates(x: Tensor, wrap: Callable[[Any], Any], family: Any) -> None:
    gain = pyro.param("gain", torch.tensor(0.4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", wrap(family(gain * x)))


def decoded(x: Tensor, wrap: Callable[[Any], Any], family: Any) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", wrap(family(torch.zeros(len(x), 2))))
        pyro.sample("x", dist.Bernoulli(logits=z).to_event(1), obs=x)


def of_normals(wrap: Callable[[Any], Any]) -> tuple[Any, Any]:
    def family(loc: Tensor) -> Any:
        return dist.Normal(loc, 0.9)

    return (lambda x: decoded(x, wrap, family)), (lambda x: coordinates(x, wrap, family))


def of_bits(wrap: Callable[[Any], Any]) -> tuple[Any, Any]:
    def family(logits: Tensor) -> Any:
        return dist.Bernoulli(logits=logits)

    return (lambda x: decoded(x, wrap, family)), (lambda x: coordinates(x, wrap, family))


READERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Tensor]]] = {
    "BetaTc": (of_normals, lambda m, g: BetaTc(6)(m, g, X).loss),
    "FreeBits": (of_normals, lambda m, g: FreeBits(nats=0.2)(m, g, X).loss),
    "StraightThrough": (of_bits, lambda m, g: Elbo(2, StraightThrough())(m, g, X).loss),
    "gaps": (
        of_normals,
        lambda m, g: inference_gaps(m, g, X, steps=3, particles=4, show_progress=False).refined,
    ),
    "diagnose": (of_normals, lambda m, g: diagnose(m, g, Split(X)).sites["z"].kl),
}


@pytest.mark.parametrize("wrap", [empty_around, torch_inside], ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_sees_through_every_independent(
    reader: str, wrap: Callable[[Any], Any]
) -> None:
    pair, read = READERS[reader]
    values: list[Tensor] = []
    for each in (flat, wrap):
        pyro.clear_param_store()
        torch.manual_seed(0)
        values.append(read(*pair(each)))
    assert torch.equal(*values)


def test_free_bits_of_coordinates_in_two_dimensions() -> None:
    """Where 10 nats are free and each of the 2 x 3 has less, the loss is 60 - E log p(x | z)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3, 2, 3), 1.0).to_event(2))
            pyro.sample("x", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1), obs=x)

    def moved(x: Tensor) -> None:
        with pyro.plate("data", 3):
            loc = torch.arange(18.0).reshape(3, 2, 3) / 20
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(2))

    estimate = FreeBits(analytic_kl=True, nats=10.0)(model, moved, X)
    torch.testing.assert_close(estimate.loss, 6 * 10 - estimate.reconstruction)


def test_masked_coordinates_are_refused() -> None:
    """A mask is part of the density: coordinates without it would be those of another posterior."""
    with pytest.raises(ValueError, match="independent coordinates; site 'z' has Masked"):
        BetaTc(6)(*of_normals(lambda base: dist.Independent(base, 1).mask(MASK)), X)
