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
from .optimizer_state import completed, refuse_other_scheduler, refuse_other_state
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
    refuse_other_state(optimizer, state["optimizer"])
    if scheduler:
        refuse_other_scheduler(scheduler, state["scheduler"])
    owned.load(state["weights"])
    copy_into(remembered(objective), objective_state(state))
    optimizer.load_state_dict(completed(optimizer, state["optimizer"]))
    if scheduler:
        scheduler.load_state_dict(state["scheduler"])


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
