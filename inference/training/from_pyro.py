"""Pyro's optimisers, as what makes torch's."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.optim import Optimizer

Maker = Callable[[Iterable[Tensor]], Optimizer]
"""What makes an optimiser of parameters."""


def maker(optimizer: Maker | PyroOptim) -> Maker:
    """Return what makes the torch optimiser that one of Pyro's would make for each parameter.

    Args:
        optimizer: makes an optimiser of parameters; or one of ``pyro.optim``, as
            ``pyro.optim.Adam({"lr": 1e-3})``.

    Raises:
        ValueError: it has other arguments for each parameter, a scheduler, or clips gradients.
        TypeError: it is a torch optimiser already, which knows no parameters of this pair.
    """
    if isinstance(optimizer, Optimizer):
        name = type(optimizer).__name__
        raise TypeError(
            f"Expected what makes an optimiser; got one, {name}. Write SVI(model, guide, lambda "
            f"parameters: {name}(parameters, lr=...)): the first batch finds the parameters."
        )
    if not isinstance(optimizer, PyroOptim):
        return optimizer
    if isinstance(optimizer, PyroLRScheduler):
        raise ValueError(
            "A scheduler of pyro.optim is two things here: write SVI(model, guide, "
            "pyro.optim.Adam({...}), objective, scheduler=lambda optimizer: StepLR(optimizer, 10))."
        )
    known: Any = optimizer
    arguments, name = known.pt_optim_args, known.pt_optim_constructor.__name__
    if not isinstance(arguments, dict):
        raise ValueError(
            f"pyro.optim.{name} with a function of arguments makes an optimiser for each "
            f"parameter. Write SVI(model, guide, lambda parameters: torch.optim.{name}(parameters, "
            "...)), with groups of parameters where they differ."
        )
    if known.pt_clip_args:
        raise ValueError(
            f"pyro.optim.{name} with clip_args clips each parameter by itself. Write SVI(..., "
            "clip_norm=10.0), the norm of the whole gradient, or take pyro.optim.ClippedAdam."
        )
    return partial(known.pt_optim_constructor, **arguments)
