"""What is exported is in the table of its kind, so that every invariant runs over it."""

from types import ModuleType
from typing import Any

import pytest

import guides
import inference
import models
from inference.objectives import Bound

from .objectives import OBJECTIVES
from .pairs import CURVED, DISCRETE, FAMILIES, PRIORS, bits, vae


def exported(package: ModuleType, kind: type) -> set[str]:
    """Return the names of a package's public classes of a kind, its abstract root left out."""
    parts = {name: getattr(package, name) for name in package.__all__}
    found = {n: p for n, p in parts.items() if isinstance(p, type) and issubclass(p, kind)}
    return {name for name, part in found.items() if part is not kind}


def named(*parts: Any) -> set[str]:
    return {type(part).__name__ for part in parts}


def priors() -> set[str]:
    return named(
        *(make(2) for make in PRIORS.values()),
        *(prior(2) for prior, _ in (*CURVED.values(), *DISCRETE.values())),
    )


def families() -> set[str]:
    made = [make(2) for make in FAMILIES.values()]
    return named(*made, *(family(2) for _, family in (*CURVED.values(), *DISCRETE.values())))


def objectives() -> set[str]:
    return named(*(objective for _, objective in OBJECTIVES))


def estimators() -> set[str]:
    return named(*(o.estimator for _, o in OBJECTIVES if isinstance(o, Bound)))


ELSEWHERE = {
    "StandardNormal": "the default of `pairs.vae`",
    "DiagonalNormal": "the default of `pairs.vae`",
    "Flow": "what families of maps derive from",
    "Implicit": "CAPTURABLE in tests/test_capture.py; its density is learned",
    "Bound": "what bounds derive from",
    "FromPyro": "tests/test_objectives.py: it wraps an ELBO of Pyro's",
    "Enumerate": "tests/test_structured.py: it needs a discrete site",
    "Pathwise": "tests/test_objectives.py; captured, it is Default",
}
"""Exported classes that stand in another table, with the place."""

KINDS = {
    "prior": (models, models.Prior, priors),
    "family": (guides, guides.Family, families),
    "objective": (inference, inference.Objective, objectives),
    "estimator": (inference, inference.Estimator, estimators),
}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_exported_is_in_its_table(kind: str) -> None:
    package, root, table = KINDS[kind]
    assert exported(package, root) - ELSEWHERE.keys() == table() - ELSEWHERE.keys()


def test_the_defaults_are_those_named() -> None:
    pair = vae(models.Bernoulli, bits())
    assert named(pair.model.prior, pair.guide.family) == {"StandardNormal", "DiagonalNormal"}
