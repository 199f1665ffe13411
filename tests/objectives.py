"""The tables of objectives and gradient estimators: each row is seen by every test of its kind."""

from typing import Any

from inference import (
    BetaTc,
    Bound,
    Chi,
    Ciwae,
    Cosine,
    Default,
    DisArm,
    DoublyReparametrised,
    Elbo,
    Enumerate,
    Estimator,
    Exponential,
    FreeBits,
    GumbelSoftmax,
    InfoVae,
    Iwae,
    Linear,
    MatchedMoments,
    Miwae,
    Objective,
    Pathwise,
    Piwae,
    Rebar,
    Relax,
    Renyi,
    Schedule,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
    Tvo,
    Vimco,
    WakeSleep,
)

OBJECTIVES: list[tuple[str, Any]] = [
    *(("bernoulli", o) for o in (
        Elbo(2, beta=2.0), Elbo(2, analytic_kl=True), FreeBits(2), Iwae(3), Miwae(4), Ciwae(4),
        Renyi(3), Tvo(3), WakeSleep(3), WakeSleep(3, phi="sleep"), Piwae(4), Chi(4), BetaTc(6),
        InfoVae(), InfoVae(0.0, 2.0, MatchedMoments()), Iwae(3, DoublyReparametrised()),
        Elbo(2, StickingTheLanding()), Elbo(2, ScoreFunction()),
        Elbo(2, ScoreFunction("leave one out")), Iwae(4, Vimco()),
    )),
    *(("discrete", o) for o in (
        Elbo(), Elbo(1, StraightThrough()), Elbo(2, ScoreFunction()), Iwae(3, Vimco()),
        Elbo(2, GumbelSoftmax()),
    )),
    *(("discrete bits", o) for o in (
        Elbo(2, DisArm()), Elbo(1, Rebar()), Elbo(2, Enumerate()),
        Elbo(2, ScoreFunction("input dependent")), Iwae(3, GumbelSoftmax()), Elbo(2, Relax()),
    )),
    *(("discrete codes", o) for o in (
        Elbo(2, Rebar()), Elbo(1, GumbelSoftmax(), analytic_kl=True), Elbo(1, Enumerate()),
        Elbo(2, StraightThrough()), Elbo(4, DisArm()), Elbo(1, Relax(1.0, 4), analytic_kl=True),
    )),
    ("flow", Iwae(3)),
]  # fmt: skip
"""A pair of tests/pairs.py and an objective on it: captured, on `meta`, exported."""

NUMBERS: dict[str, tuple[Objective, str, Schedule]] = {
    "Elbo.beta": (Elbo(), "bernoulli", Linear(2, 0.0, 4.0)),
    "FreeBits.beta": (FreeBits(), "bernoulli", Linear(2, 2.0, 0.5)),
    "FreeBits.nats": (FreeBits(), "bernoulli", Linear(2, 1.0, 0.0)),
    "Ciwae.beta": (Ciwae(4), "bernoulli", Linear(2)),
    "Renyi.alpha": (Renyi(4), "bernoulli", Linear(1, 0.0, 1.0)),
    "Chi.order": (Chi(4), "bernoulli", Exponential(2, 1.5, 3.0)),
    "Tvo.first": (Tvo(4), "bernoulli", Exponential(2, 0.5, 0.01)),
    "BetaTc.information": (BetaTc(30), "bernoulli", Linear(2, 1.0, 0.5)),
    "BetaTc.correlation": (BetaTc(30), "bernoulli", Linear(2, 1.0, 6.0)),
    "BetaTc.dimensions": (BetaTc(30), "bernoulli", Cosine(2, 2.0, 1.0)),
    "InfoVae.alpha": (InfoVae(), "bernoulli", Linear(2, -0.5, 0.5)),
    "InfoVae.weight": (InfoVae(), "bernoulli", Linear(2, 1.0, 10.0)),
    "StraightThrough.temperature": (
        Elbo(2, StraightThrough()), "discrete", Exponential(2, 1.0, 0.2)
    ),
    "GumbelSoftmax.temperature": (
        Elbo(2, GumbelSoftmax()), "discrete codes", Exponential(2, 1.0, 0.2)
    ),
    "Rebar.temperature": (Elbo(2, Rebar()), "discrete bits", Exponential(2, 1.0, 0.2)),
    "Relax.temperature": (Elbo(2, Relax()), "discrete bits", Exponential(2, 1.0, 0.2)),
}  # fmt: skip
"""Each number of an objective or an estimator that is exported: where it is, and a schedule."""

SCALAR: list[tuple[Bound, list[Estimator]]] = [
    (Elbo(1), [Default(), Pathwise(), StickingTheLanding(), ScoreFunction("none")]),
    (
        Elbo(2),
        [
            Default(),
            Pathwise(),
            StickingTheLanding(),
            ScoreFunction(),
            ScoreFunction("leave one out"),
        ],
    ),
    (Iwae(2), [Default(), Pathwise(), DoublyReparametrised(), Vimco(), ScoreFunction("none")]),
    (Ciwae(2, beta=0.3), [Default(), Pathwise(), ScoreFunction()]),
    (Renyi(2, alpha=0.5), [Default(), Pathwise(), ScoreFunction("none")]),
    (Renyi(2, alpha=-0.5), [Pathwise()]),
    (Miwae(2, groups=2), [Pathwise(), ScoreFunction("none")]),
]
"""Bounds of K <= 2 particles and their estimators, checked by quadrature."""

BINARY: list[tuple[Bound, list[Estimator]]] = [
    (
        Elbo(1),
        [
            Default(),
            ScoreFunction("none"),
            ScoreFunction("running mean"),
            ScoreFunction("input dependent"),
            Rebar(),
            Rebar(0.1),
            Relax(),
            Relax(0.1),
        ],
    ),
    (Elbo(2), [Default(), ScoreFunction("leave one out"), DisArm(), Rebar(1.0), Relax(1.0)]),
    (Elbo(4), [DisArm()]),
    (Elbo(1, analytic_kl=True), [Rebar(), Relax()]),
    (Elbo(2, analytic_kl=True), [DisArm()]),
    (Iwae(2), [Default(), Vimco(), ScoreFunction("none"), ScoreFunction("input dependent")]),
    (Renyi(2, alpha=0.5), [ScoreFunction("running mean")]),
]
"""The same on eight coins, checked by enumeration."""

CHOICES: list[tuple[Bound, list[Estimator]]] = [
    (
        Elbo(1),
        [
            Default(),
            ScoreFunction(),
            ScoreFunction("input dependent"),
            Rebar(),
            Rebar(0.1),
            Relax(),
            Relax(0.1),
        ],
    ),
    (Elbo(2), [ScoreFunction("leave one out"), Rebar(1.0), Relax(1.0), DisArm()]),
    (Elbo(4), [DisArm()]),
    (Elbo(1, analytic_kl=True), [Rebar(), Relax()]),
    (Elbo(2, analytic_kl=True), [DisArm()]),
    (Iwae(2), [Vimco()]),
]
"""The same on three choices among four values."""
