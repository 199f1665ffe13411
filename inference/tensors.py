"""The tensors of a pair, by name: what is trained, what is saved, what is loaded."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import rng
from .programs import Batch, Program, as_tuple, run
from .reached import called_modules, leaves, unregistered
from .references import modules
from .registrations import registrations
from .sites import with_density
from .statements import ParamStatements
from .stores import owner, stored, unwrapped

_OBJECTIVE = "objective."  # what an objective remembered, among the weights of version 0.1


@dataclass(frozen=True)
class Tensors:
    """What a pair owns, by name: ``model.decoder.weight``, or ``param.loc`` for ``pyro.param``.

    Args:
        parameters: those that require a gradient, each once.
        modules: what the programs refer to, by the first part of the names.
        fixed: what ``pyro.param`` made and is frozen, by name.
        also: further names of these tensors, as of a layer that both programs share.
    """

    parameters: dict[str, Tensor]
    modules: dict[str, nn.Module] = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)
    also: dict[str, Tensor] = field(default_factory=dict)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers of the modules as they are now, each once."""
        return _once(self._held(nn.Module.named_buffers))

    @property
    def named(self) -> dict[str, Tensor]:
        """Parameters, buffers, and parameters that are frozen, each once."""
        frozen = _once(self._held(nn.Module.named_parameters)) | self.fixed
        known = {id(value) for value in self.parameters.values()}
        held = {name: value for name, value in frozen.items() if id(value) not in known}
        return {**self.buffers, **held, **self.parameters}

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of them."""
        return {name: value.detach().clone() for name, value in self.named.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy in what `weights` returned.

        Weights of version 0.1 lack frozen parameters and buffers of modules behind functions; these
        keep their values, and a warning names the buffers.

        Raises:
            ValueError: the names or shapes are those of another pair.
        """
        named = self.named
        names = {id(value): name for name, value in named.items()}
        every = {**self.also, **self._held(nn.Module.named_buffers), **named}
        found: dict[str, Tensor] = {}
        for name, value in weights.items():
            if not name.startswith(_OBJECTIVE):
                found[names.get(id(every.get(name)), name)] = value
        lacking = self._lately_saved(named) - found.keys()
        if buffers := sorted(lacking & self.buffers.keys()):
            warnings.warn(
                f"The weights were saved without {', '.join(buffers[:5])}, which version 0.1 did "
                "not find behind functions: they stay as they are. Train again to have them.",
                stacklevel=2,
            )
        copy_into({k: v for k, v in named.items() if k not in lacking}, found)

    def _held(
        self, members: Callable[[nn.Module], Iterator[tuple[str, Tensor]]]
    ) -> dict[str, Tensor]:
        return {f"{at}.{k}": v for at, module in self.modules.items() for k, v in members(module)}

    def _lately_saved(self, named: Mapping[str, Tensor]) -> set[str]:
        """Return the names that version 0.1 did not save."""
        roots = ("model.", "guide.")
        owned = {
            f"{at}.{name}"
            for at, module in self.modules.items()
            if f"{at}." in roots
            for name, _ in module.named_buffers()
        }
        return named.keys() - self.parameters.keys() - owned


def copy_into(named: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copy weights into tensors of the same names and shapes.

    Raises:
        ValueError: the names or shapes differ, or there are no tensors.
    """
    if not isinstance(weights, Mapping) or not all(map(torch.is_tensor, weights.values())):
        raise ValueError("Expected tensors by their names.")
    shapes, found = ({k: tuple(v.shape) for k, v in d.items()} for d in (named, weights))
    if shapes != found:
        names = sorted(dict(shapes.items() ^ found.items()))
        raise ValueError(
            f"The weights belong to another pair: {', '.join(names[:5])} "
            f"{'differs' if len(names) == 1 else 'differ'} in name or shape."
        )
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(weights[name])


def objective_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what an objective remembered, from a checkpoint of any version."""
    old = {k: v for k, v in state["weights"].items() if k.startswith(_OBJECTIVE)}
    return state.get("objective") or {k.removeprefix(_OBJECTIVE): v for k, v in old.items()}


def tensors_of(
    model: Program, guide: Program, x: Batch, loss: Callable[[], Tensor] | None = None
) -> Tensors:
    """Run a pair once and return its tensors.

    What the loss reaches is among them: every leaf of its graph that requires a gradient is a
    parameter of a module that is a program (or that a partial or a handler of Pyro's holds), or
    comes from ``pyro.param`` or ``pyro.module``.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: a batch, on which plain functions make their parameters.
        loss: runs the pair in a way of its own, as an objective does; None runs both halves once.

    Raises:
        Unregistered: the loss reaches a tensor that is neither trained nor saved.
    """
    batch = as_tuple(x)

    def densities() -> Tensor:
        halves = map(with_density, run(model, guide, batch))
        terms = (site.scaled_log_prob().sum() for half in halves for site in half.values())
        return sum(terms, torch.zeros(()))

    with ParamStatements() as params, warnings.catch_warnings(), torch.enable_grad():
        # A user who froze a parameter knows that it is not learned.
        warnings.filterwarnings("ignore", ".*was not registered in the param store")
        before = registrations()
        with called_modules() as called:
            value = (loss or densities)()
            reached = leaves(value)
            made = registrations() != before  # a second run shows what the programs make anew
            if made or (loss and not value.requires_grad):  # or has run its own backward pass
                with rng.isolated():
                    reached |= leaves(densities())
    lasting = {id(p) for each in _modules(model, guide).values() for p in each.parameters()}
    found = announced(model, guide, params.found(reached.keys() & lasting))
    for name, parameter in stored(model).items():  # a handler may hide its statement
        if id(parameter) in reached:
            found.setdefault(f"param.{name}", parameter)
    every = {value for value in found.values() if value.requires_grad}
    unregistered(model, guide, batch, reached, every, called)
    parameters = _once({k: v for k, v in found.items() if v.requires_grad})
    fixed = {k: v for k, v in found.items() if not v.requires_grad and k.startswith("param.")}
    return Tensors(parameters, _modules(model, guide), _once(fixed), found)


def announced(
    model: Program, guide: Program, statements: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return every parameter that is announced, by each of its names: the modules' own first.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        statements: what the two state by ``pyro.param`` and ``pyro.module``, by name.
    """
    found: dict[str, Tensor] = {}
    for role, program in (("model", model), ("guide", guide)):
        if module := owner(program):
            found.update((f"{role}.{name}", value) for name, value in module.named_parameters())
    found.update((f"param.{name}", value) for name, value in statements.items())
    for role, program in (("model", model), ("guide", guide)):
        if module := owner(unwrapped(program)):  # its statements, if it makes any, are older names
            found.update((f"{role}.{name}", value) for name, value in module.named_parameters())
    return found


def _modules(model: Program, guide: Program) -> dict[str, nn.Module]:
    """Return the modules of both programs by the first part of their tensors' names."""
    found: dict[str, nn.Module] = {}
    for role, program in (("model", model), ("guide", guide)):
        for place, module in modules(program).items():
            found[f"{role}.{place}" if place else role] = module
    # A program's own tensors have its name, also where the other one refers to a part of it.
    return dict(sorted(found.items(), key=lambda item: item[0] not in ("model", "guide")))


def _once(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the first name of each tensor."""
    unique: dict[int, str] = {}
    for name, value in found.items():
        unique.setdefault(id(value), name)
    return {name: found[name] for name in unique.values()}
