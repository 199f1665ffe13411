"""Measure gradient estimators on a pair: bias, variance, and variance times time.

At points along the training of a pair every estimator that it admits gives the guide's gradient on
one batch, again and again. Bias is told against enumeration, where there are few values, else
against the other unbiased ones.
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch

from inference import (
    SVI,
    DisArm,
    DoublyReparametrised,
    Elbo,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    Iwae,
    Objective,
    Pathwise,
    Rebar,
    Relax,
    ScoreFunction,
    StickingTheLanding,
    StraightThrough,
    Vimco,
    with_estimator,
)
from inference.check import check
from inference.data import Dataset, Source, View
from inference.evaluation.gradient_noise import GradientNoise, bias, gradient_noise
from inference.files import atomic
from inference.runs.figures import new_figure, save
from inference.runs.tables import table
from scripts._arguments import (
    NonNegativeInt,
    Parser,
    PositiveFloat,
    PositiveInt,
    one_line_errors,
    to_device,
)
from scripts._data import opened, suit, taken
from scripts._pair import add_pair_arguments, compose, split_arguments
from scripts._run_arguments import add_config


class Case(NamedTuple):
    """An estimator of a bound: how to make it of K particles and a temperature."""

    bound: str
    name: str
    make: Callable[[int, float], Objective]
    unbiased: bool = True


CASES = (
    Case("Elbo", "Enumerate", lambda k, _: Elbo(k, Enumerate())),
    Case("Elbo", "Pathwise", lambda k, _: Elbo(k, Pathwise())),
    Case("Elbo", "StickingTheLanding", lambda k, _: Elbo(k, StickingTheLanding())),
    Case("Elbo", "ScoreFunction none", lambda k, _: Elbo(k, ScoreFunction("none"))),
    Case("Elbo", "ScoreFunction running mean", lambda k, _: Elbo(k, ScoreFunction())),
    Case(
        "Elbo", "ScoreFunction input dependent",
        lambda k, _: Elbo(k, ScoreFunction("input dependent")),
    ),
    Case(
        "Elbo", "ScoreFunction leave one out", lambda k, _: Elbo(k, ScoreFunction("leave one out"))
    ),
    Case("Elbo", "DisArm", lambda k, _: Elbo(k, DisArm())),
    Case("Elbo", "Rebar", lambda k, t: Elbo(k, Rebar(t))),
    Case("Elbo", "Relax", lambda k, t: Elbo(k, Relax(t))),
    Case("Elbo", "StraightThrough", lambda k, t: Elbo(k, StraightThrough(t)), unbiased=False),
    Case("Elbo", "GumbelSoftmax", lambda k, t: Elbo(k, GumbelSoftmax(t)), unbiased=False),
    Case(
        "Elbo", "GumbelSoftmax analytic_kl",
        lambda k, t: Elbo(k, GumbelSoftmax(t), analytic_kl=True), unbiased=False,
    ),
    Case("Iwae", "Pathwise", lambda k, _: Iwae(k, Pathwise())),
    Case("Iwae", "DoublyReparametrised", lambda k, _: Iwae(k, DoublyReparametrised())),
    Case("Iwae", "ScoreFunction running mean", lambda k, _: Iwae(k, ScoreFunction())),
    Case("Iwae", "Vimco", lambda k, _: Iwae(k, Vimco())),
    Case("Iwae", "GumbelSoftmax", lambda k, t: Iwae(k, GumbelSoftmax(t)), unbiased=False),
)  # fmt: skip
"""What is tried; what a pair does not admit is named with the reason."""

COLUMNS = ("estimator", "step", "bias", "z", "variance", "ms", "variance x ms")


@dataclass
class Line:
    """A line of the table."""

    case: Case
    step: int
    found: GradientNoise
    bias: float
    z: float

    def numbers(self) -> dict[str, Any]:
        """Return it as plain numbers."""
        milliseconds = 1e3 * self.found.seconds
        return {
            "bound": self.case.bound,
            "estimator": self.case.name,
            "step": self.step,
            "bias": self.bias,
            "z": self.z,
            "variance": self.found.total,
            "milliseconds": milliseconds,
            "variance_x_milliseconds": self.found.total * milliseconds,
            "repeats": self.found.repeats,
        }

    def cells(self) -> list[str]:
        """Return it as text."""
        of = self.numbers()
        numbers = (of["variance"], of["milliseconds"], of["variance_x_milliseconds"])
        name = f"{self.case.bound} {self.case.name}"
        shown = (f"{value:.3g}" for value in numbers)
        return [name, str(self.step), f"{self.bias:.3f}", f"{self.z:.1f}", *shown]


def measured(
    step: int, svi: SVI, x: Any, repeats: int, particles: int, temperature: float
) -> tuple[list[Line], dict[str, str]]:
    """Return what every estimator does on a batch, and why others are left out."""
    named = {n: p for n, p in svi.parameters.items() if n.startswith(("guide", "param"))}
    lines, refused = [], {}
    for bound in ("Elbo", "Iwae"):
        found: dict[Case, GradientNoise] = {}
        for case in (case for case in CASES if case.bound == bound):
            try:
                objective = case.make(particles, temperature)
                found[case] = gradient_noise(objective, svi.model, svi.guide, x, named, repeats)
            except ValueError as error:
                refused[f"{bound} {case.name}"] = " ".join(
                    str(error).partition("Trace Shapes:")[0].split()
                )
        exact = [noise for case, noise in found.items() if case.name == "Enumerate"]
        for case, noise in found.items():
            others = [n for c, n in found.items() if c.unbiased and c is not case]
            truth = exact or others  # of enumeration itself there is nothing to say
            off = bias(noise, truth) if truth else (float("nan"), float("nan"))
            lines.append(Line(case, step, noise, *off))
    return lines, refused


def study(
    parts: dict[str, Any],
    records: Dataset,
    data: Source = Source(),  # noqa: ARG001, B008  (frozen)
    view: View | None = None,  # noqa: ARG001
    data_root: Path | None = None,  # noqa: ARG001
    objective: Callable[[], Objective] = Elbo,
    estimator: Callable[[], Estimator] | None = None,
    learning_rate: PositiveFloat = 1e-3,
    points: list[int] = [0, 300, 1000],  # noqa: B006  (only read)
    particles: PositiveInt = 2,
    temperature: PositiveFloat = 0.5,
    repeats: PositiveInt = 200,
    batch_size: PositiveInt = 64,
    seed: NonNegativeInt = 0,
    out: Path = Path("gradients"),
) -> None:
    """Train a pair and measure at points along the way.

    Args:
        parts: arguments of compose.
        records: the data.
        data: what to train on.
        view: how stored values become x; by default as their kind suggests.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        objective: what the pair is trained with.
        estimator: how its gradient is estimated, for an objective that leaves the choice.
        learning_rate: of Adam.
        points: numbers of steps after which to measure.
        particles: draws of each datum in what is measured; some estimators need 2.
        temperature: of relaxed draws.
        repeats: estimates of each gradient.
        batch_size: data in the batch of a step, and in that which is measured on.
        seed: of parameters, batches and draws.
        out: folder of gradients.csv and gradients.png.
    """
    with one_line_errors("lowerbound gradients"):
        if min(points, default=-1) < 0:
            raise ValueError(f"--points takes numbers of steps, 0 or more; got {points}.")
        pyro.set_rng_seed(seed)
        masked = records.train.mask is not None
        model, guide = compose(
            records.event_shape, to_device("cpu"), records.train.sample, masked, **parts
        )
        records = taken(records, model, guide)
        size = min(batch_size, len(records.train))
        x = records.train.batch(slice(size))
        if faults := [each for each in check(model, guide, x) if each.kind == "fault"]:
            raise ValueError(f"the pair is not sound. {' '.join(faults)}")
        svi = SVI(
            model,
            guide,
            lambda parameters: torch.optim.Adam(parameters, lr=learning_rate),
            with_estimator(objective(), estimator),
            compile="off",
        )
        svi.prepare(x)
        lines: list[Line] = []
        refused: dict[str, str] = {}
        for step in range(max(points) + 1):
            if step in points:
                new, refused = measured(step, svi, x, repeats, particles, temperature)
                lines += new
            svi.step(records.train.batch(torch.randint(len(records.train), (size,))))
        paths = written(lines, out)
    print(table(COLUMNS, [line.cells() for line in lines]))
    exact = any(line.case.name == "Enumerate" for line in lines)
    against = (
        "enumeration for Elbo, the other unbiased ones for Iwae" if exact else "the unbiased others"
    )
    print(
        f"The guide's gradient on {size} data, K = {particles}. Bias: length of the mean's error "
        f"over that of the gradient, against {against}; z: how sure it is, standard normal where "
        "there is none. Variance: of all parameters together."
    )
    for name, reason in refused.items():
        print(f"Left out: {name}: {reason}", file=sys.stderr)
    print("\n".join(map(str, paths)))


def written(lines: list[Line], out: Path) -> list[Path]:
    """Write the numbers and draw variance over steps, and variance times time."""
    out.mkdir(parents=True, exist_ok=True)
    numbers, picture = out / "gradients.csv", out / "gradients.png"
    rows = [line.numbers() for line in lines]
    with atomic(numbers) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    figure = new_figure(10, 8)
    shown = ("variance", "variance_x_milliseconds")
    for place, (bound, name) in enumerate((b, n) for b in ("Elbo", "Iwae") for n in shown):
        axes = figure.add_subplot(2, 2, place + 1)
        for estimator in dict.fromkeys(r["estimator"] for r in rows if r["bound"] == bound):
            some = [r for r in rows if (r["bound"], r["estimator"]) == (bound, estimator)]
            values = [max(r[name], 1e-20) for r in some]
            axes.plot([r["step"] for r in some], values, "o-", label=estimator)
        axes.set(title=f"{bound}: {name.replace('_', ' ')}", xlabel="step", yscale="log")
        if axes.lines:
            axes.legend(fontsize=6)
    save(figure, picture)
    return [numbers, picture]


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound gradients", __doc__)
    add_config(parser, argv)
    parser.add_function_arguments(study, skip={"parts", "records"})
    add_pair_arguments(parser)
    arguments = parser.parse_args(argv)
    for name in ("config", "trust"):
        arguments.pop(name, None)
    with one_line_errors(parser.prog):
        records = opened(arguments, parser.prog)
    suit(arguments, parser, argv, records)
    parts, others = split_arguments(parser.instantiate(arguments))
    study(parts, records, **others)


if __name__ == "__main__":
    main()
