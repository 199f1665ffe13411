"""What of a training is saved and loaded, and the way back to where captured steps were right."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .. import rng
from ..objectives.bounds import Objective
from ..tensors import Tensors, copy_into, objective_state
from .captures import Captures
from .update import optimizer_state


def remembered(objective: Objective) -> dict[str, Tensor]:
    """Return what an objective remembers between batches, by name."""
    return {} if objective.state is None else dict(objective.state.named_buffers())


def saved(
    owned: Tensors, objective: Objective, optimizer: Optimizer, scheduler: LRScheduler | None
) -> dict[str, Any]:
    """Return weights, optimiser, scheduler and objective as tensors and plain data."""
    scheduled = scheduler.state_dict() if scheduler else {}
    return {
        "weights": owned.weights(),
        "optimizer": optimizer_state(optimizer),
        "scheduler": {k: v for k, v in scheduled.items() if not callable(v)},
        "objective": {k: v.detach().clone() for k, v in remembered(objective).items()},
    }


def load(
    state: Mapping[str, Any],
    owned: Tensors,
    objective: Objective,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
) -> None:
    """Copy in what `saved` returned, here or in version 0.1.

    Raises:
        ValueError: the names or shapes are those of another pair.
    """
    _refuse_other_state(optimizer, state["optimizer"])
    owned.load(state["weights"])
    copy_into(remembered(objective), objective_state(state))
    optimizer.load_state_dict(state["optimizer"])
    if scheduler:
        scheduler.load_state_dict(state["scheduler"])


LIKE_PARAMETER = frozenset(
    [
        "acc_delta",
        "ax",
        "exp_avg",
        "exp_avg_sq",
        "exp_inf",
        "grad_avg",
        "max_exp_avg_sq",
        "momentum_buffer",
        "prev",
        "square_avg",
        "sum",
    ]
)
"""What torch's optimisers keep in the shape of a parameter."""


def _refuse_other_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Check an optimiser's state before torch has it: a wrong shape there ends the process.

    Raises:
        ValueError: it is that of other parameters, or a part of it is missing.
    """
    groups, found = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(found, dict):
        raise ValueError("The optimiser's state is none: it has no param_groups and state.")
    places = [p for g in groups for p in g.get("params", ())]
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    if len(places) != len(parameters):
        raise ValueError(
            f"The optimiser's state is that of {len(places)} parameters; the pair has "
            f"{len(parameters)}."
        )
    names = max((each.keys() for each in found.values()), key=len, default=set())
    for place, parameter in zip(places, parameters, strict=True):
        for name in names if place in found else ():
            value = found[place].get(name)
            if name not in found[place]:
                raise ValueError(f"The optimiser's state of parameter {place} lacks {name}.")
            if (
                name in LIKE_PARAMETER
                and isinstance(value, Tensor)
                and value.shape != parameter.shape
            ):
                raise ValueError(
                    f"The optimiser's {name} of parameter {place} has the shape "
                    f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}."
                )


class WayBack:
    """Checks of captured steps, and the state of training when the last one found no difference.

    Args:
        captures: the captured steps.
        state: returns the state of training, its number of steps as ``steps``.
        restore: takes it back.
    """

    def __init__(
        self,
        captures: Captures,
        state: Callable[[], dict[str, Any]],
        restore: Callable[[dict[str, Any]], None],
    ) -> None:
        self._captures, self._state, self._restore = captures, state, restore
        self._last: dict[str, Any] = {}

    @property
    def due(self) -> bool:
        """Whether a check is due before the next step."""
        return self._captures.due or bool(self._captures.known and not self._last)

    def check(self, steps: int) -> bool:
        """Check the captured steps since the last time; undo them where they differ.

        Args:
            steps: number of steps taken.

        Returns:
            True if nothing differs.

        Raises:
            ValueError: as for `Captures.stop`; the steps are undone.
        """
        if (why := self._captures.verify()) is None:
            return True
        self._restore(self._last["svi"])
        rng.set_state(self._last["rng"])
        back, self._last = self._last["svi"]["steps"], {}
        self._captures.stop(why, steps, back)
        return False

    def keep(self) -> None:
        """Come back to the present state from now on."""
        self.forget()
        if self._captures.known:
            self._last = copy.deepcopy({"svi": self._state(), "rng": rng.get_state()})

    def forget(self) -> None:
        """Trust the present state; the next check starts from it, and there is no way past it."""
        self._captures.trust()
        self._last = {}
