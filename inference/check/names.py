"""Names that clash in Pyro's parameter store: one tensor where a pair means two."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from inspect import currentframe
from itertools import combinations
from typing import Any, NamedTuple

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import rng
from ..default_device import on_device_of
from ..private import pyro_params
from ..programs import Program
from ..references import modules
from ..stores import param_store, stored
from .telling import own_line

_MODULE = "$$$"
"""Stands between the name of a ``pyro.module`` and that of its parameter."""


class _Statement(NamedTuple):
    """One ``pyro.param``.

    Args:
        name: of the parameter.
        half: which makes it.
        line: file and line, or nothing.
        start: what it starts from where its name is new; None where that is not said.
        constraint: on its values, as it is said.
    """

    name: str
    half: str
    line: str
    start: Any
    constraint: Any

    @property
    def who(self) -> str:
        """Which half makes it, and where."""
        return f"the {self.half} ({self.line})" if self.line else f"the {self.half}"


class _Listener(Messenger):
    """Collect the parameters and the sample sites of one program."""

    def __init__(self, half: str) -> None:
        super().__init__()
        self.half = half
        self.stated: list[_Statement] = []
        self.named: set[str] = set()
        self.sampled: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        self.sampled.add(msg["name"])

    def _pyro_param(self, msg: Any) -> None:
        self.named.add(msg["name"])
        line, frame = "", currentframe()
        while frame is not None and not line:
            if frame.f_globals.get("__name__") == "pyro.nn.module":
                return  # a PyroModule announces what it holds, and uses that
            line, frame = own_line(frame, frame.f_lineno), frame.f_back
        start = msg["args"][1] if len(msg["args"]) > 1 else None
        if callable(start) and not isinstance(start, Tensor):
            start = start()
        constraint = msg["kwargs"].get("constraint")
        self.stated.append(_Statement(msg["name"], self.half, line, start, constraint))


def clashing_names(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[list[str], list[str]]:
    """Find parameters that have one name and are meant to be several.

    What is stated twice in the same way, shape, constraint and start, is shared on purpose.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        batch: the arguments of both.

    Returns:
        What is a fault, and what may be one: parameters of one shape and two starts.
    """
    before = {*stored(model)}
    runs: list[list[_Listener]] = []
    with rng.isolated(0), on_device_of(batch), param_store(model):
        for _ in range(2):  # a pyro.module may take over the store's tensors in its first run
            runs.append([_Listener("guide"), _Listener("model")])
            for listener, program in zip(runs[-1], (guide, model), strict=True):
                with suppress(Exception), listener:  # what a pair raises is told elsewhere
                    program(*batch)
        first, stated = ([each for half in run for each in half.stated] for run in runs)
        plain = {**stored(model)}
        held = {name: pyro.get_param_store()[name] for name in plain}
    faults = [
        f"{name!r} is the name of a parameter and of a sample site of the {listener.half}: Pyro "
        "needs a name for each. Give the parameter another one."
        for listener in runs[-1]
        for name in sorted(listener.named & listener.sampled)
    ]
    faults += [
        *_attributes(model, guide),
        *_announced(stated, plain, before & _lasting(first, stated)),
    ]
    return [*faults, *_shapes(stated, held, before)], [*_one_of_two(stated)]


def _lasting(first: list[_Statement], second: list[_Statement]) -> set[str]:
    """Return the names of parameters that start from the same tensor in two runs."""
    starts = {(s.name, id(s.start)) for s in first}
    return {s.name for s in second if (s.name, id(s.start)) in starts}


def _attributes(model: Program, guide: Program) -> Iterator[str]:
    """Find PyroParams of two modules with one name: the second loses its own tensor."""
    owners: dict[str, dict[int, str]] = {}
    for half, program in (("model", model), ("guide", guide)):
        for module in modules(program).values():
            for name, owner in pyro_params(module):
                owners.setdefault(name, {}).setdefault(
                    id(owner), f"{type(owner).__name__} ({half})"
                )
    for name, those in owners.items():
        if len(those) > 1:
            yield (
                f"PyroParam {name!r} is an attribute of {' and of '.join(those.values())}, and one "
                "parameter in Pyro's store: whichever comes second loses its own tensor. Give one "
                "of them another name."
            )


def _announced(
    stated: list[_Statement], held: Mapping[str, Any], before: set[str]
) -> Iterator[str]:
    """Find modules that are announced under a name that the store has for another module."""
    of_modules = [s for s in stated if _MODULE in s.name and s.start is not None]
    for module, those in _grouped(of_modules, lambda s: s.name.partition(_MODULE)[0]).items():
        names = _grouped(those, lambda s: s.name)
        two = [each for each in names.values() if len({id(s.start) for s in each}) > 1]
        if two:
            first, second = two[0][0], next(s for s in two[0] if s.start is not two[0][0].start)
            yield (
                f"pyro.module has two modules named {module!r}, in {first.who} and in "
                f"{second.who}: Pyro trains the first alone. Give each a name of its own."
            )
        elif stale := [s for s in those if s.name in before and held[s.name] is not s.start]:
            yield (
                f"pyro.module({module!r}, ...) in {stale[0].who}: Pyro's parameter store has "
                "another module's parameters under that name, and would train those. Call "
                "pyro.clear_param_store() before making this pair."
            )


def _shapes(stated: list[_Statement], held: Mapping[str, Any], before: set[str]) -> Iterator[str]:
    """Find parameters that start in another shape than they have."""
    for name, those in _grouped(stated, lambda s: s.name).items():
        if _MODULE in name or name not in held:
            continue
        shape = tuple(held[name].shape)
        started = [s for s in those if s.start is not None]
        wrong = [s for s in started if tuple(s.start.shape) != shape]
        if not wrong:
            continue
        right = [s for s in started if tuple(s.start.shape) == shape]
        where = f" in {right[0].who}" if right else ", as another pair made it"
        remedy = (
            "Call pyro.clear_param_store() before making this pair"
            if name in before and not right
            else "Give each a name of its own"
        )
        yield (
            f"Parameter {name!r} has shape {shape}{where}, and {wrong[0].who} starts it in shape "
            f"{tuple(wrong[0].start.shape)}: both are one tensor. {remedy}."
        )


def _one_of_two(stated: list[_Statement]) -> Iterator[str]:
    """Tell of parameters of one shape that start from two values."""
    plain = [s for s in stated if _MODULE not in s.name and s.start is not None]
    for name, those in _grouped(plain, lambda s: s.name).items():
        for one, other in combinations(those, 2):
            if one.line != other.line and not _alike(one, other):
                yield (
                    f"Parameter {name!r} is one tensor for {one.who} and {other.who}, which start "
                    "it differently, so that the second start has no effect. If they are two, give "
                    "each a name of its own; if it is shared, start it alike."
                )
                break


def _alike(one: _Statement, other: _Statement) -> bool:
    if one.start.shape != other.start.shape:
        return True  # that is a fault, told elsewhere
    return one.constraint == other.constraint and bool((one.start == other.start).all())


def _grouped(
    stated: Iterable[_Statement], key: Callable[[_Statement], str]
) -> dict[str, list[_Statement]]:
    found: dict[str, list[_Statement]] = {}
    for each in stated:
        found.setdefault(key(each), []).append(each)
    return found
