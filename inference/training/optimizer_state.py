"""An optimiser's state on its way back from a file: a wrong shape there would end the process."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

SIDE = 2
"""Each side of the parameter that tells what an optimiser keeps of one."""


def refuse_other_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Check a state before an optimiser has it.

    Raises:
        ValueError: it is that of other parameters, or a part of it is missing or of another kind.
    """
    groups, found = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(found, dict):
        raise ValueError("The optimiser's state is none: it has no param_groups and state.")
    if not all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups):
        raise ValueError("The optimiser's state is none: its param_groups have no params.")
    places = [place for group in groups for place in group["params"]]
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    if len(places) != len(parameters) or len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"The optimiser's state is that of {len(places)} parameters; the pair has "
            f"{len(parameters)}."
        )
    for place, (mine, theirs) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        if "lr" not in theirs:
            raise ValueError(f"The optimiser's param_groups {place} lacks its learning rate, lr.")
        refuse_other_kind(_options(mine), _options(theirs), f"param_groups {place}")
        for parameter, name in zip(mine["params"], theirs["params"], strict=True):
            if name in found:
                usual = _kept(optimizer, mine, parameter)
                _refuse_other_moments(parameter, found[name], name, usual)
    if strange := found.keys() - set(places):
        raise ValueError(f"The optimiser's state has moments of no parameter: {min(strange)}.")


def completed(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with the options that it lacks, as one of an older torch may."""
    pairs = zip(optimizer.param_groups, state["param_groups"], strict=True)
    return {**state, "param_groups": [{**mine, **theirs} for mine, theirs in pairs]}


def refuse_other_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Check a state before a scheduler has it.

    Raises:
        ValueError: a part of it is missing or of another kind.
    """
    mine = {k: v for k, v in scheduler.state_dict().items() if not callable(v)}
    refuse_other_kind(mine, state, "the scheduler")


def refuse_other_kind(mine: Any, theirs: Any, place: str) -> None:
    """Check that a value is of the kind that it replaces: a number for a number, and so inside.

    Raises:
        ValueError: it is not; the message says where.
    """
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in mine.keys() & theirs.keys():  # another version may keep more, or less
            refuse_other_kind(mine[name], theirs[name], f"{place}, {name}")
    elif isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        if isinstance(mine, tuple) and len(mine) != len(theirs):
            raise ValueError(f"The state of {place} has {len(theirs)} numbers, not {len(mine)}.")
        for number, (one, other) in enumerate(zip(mine, theirs, strict=False)):
            refuse_other_kind(one, other, f"{place}, {number}")
    elif _number(mine) and not _number(theirs):
        raise ValueError(f"The state of {place} is {str(theirs)[:40]}, and no number of a fit.")
    elif isinstance(mine, str | dict | list | tuple) and type(mine) is not type(theirs):
        raise ValueError(f"The state of {place} is {theirs!r}, and no {type(mine).__name__}.")


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group says of its steps; how they are computed may differ by the device."""
    beside = ("params", "fused", "foreach", "capturable", "differentiable")
    return {name: value for name, value in group.items() if name not in beside}


def _number(value: Any) -> bool:
    """Whether a value is one real number that can be counted with, perhaps infinite: a best."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and not value.isnan().any()
    huge = isinstance(value, int) and abs(value) > 2**63
    return isinstance(value, int | float) and value == value and not huge


def _kept(optimizer: Optimizer, group: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
    """Return what an optimiser keeps of a small parameter of so many dimensions after a step."""
    small = nn.Parameter(torch.zeros([SIDE] * like.dim(), dtype=like.dtype))
    small.grad = torch.zeros_like(small)
    options = {k: v for k, v in group.items() if k in optimizer.defaults}
    with suppress(Exception):  # one that is made otherwise: its state is checked by shapes alone
        twin = type(optimizer)([small], **options)
        twin.step()
        return dict(twin.state[small])
    return {}


def _refuse_other_moments(
    parameter: Tensor, found: Any, place: Any, usual: Mapping[str, Any]
) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"The optimiser's state of parameter {place} is {found!r}.")
    for name, like in usual.items():
        if name not in found:
            raise ValueError(f"The optimiser's state of parameter {place} lacks {name}.")
        value, small = found[name], like.shape if isinstance(like, Tensor) else ()
        if like is not None and len(small) == 0 and not _number(value) and value is not None:
            raise ValueError(f"The optimiser's {name} of parameter {place} is no number.")
        if isinstance(like, Tensor) and small == (SIDE,) * parameter.dim() and small:
            shape = tuple(value.shape) if isinstance(value, Tensor) else None
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise ValueError(f"The optimiser's {name} of parameter {place} is not finite.")
            if shape != tuple(parameter.shape):
                raise ValueError(
                    f"The optimiser's {name} of parameter {place} has the shape {shape}, the "
                    f"parameter {tuple(parameter.shape)}."
                )
