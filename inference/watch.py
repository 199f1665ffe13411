"""Watching a pair's parameters while it is trained: those frozen, thawed, or made too late."""

from collections.abc import Mapping

from torch import Tensor

from .programs import Program
from .registrations import registrations
from .stores import stored
from .tensors import Tensors


class Watch:
    """Tells what has changed of a pair's parameters since they were found.

    Each question costs microseconds where nothing has: the parameter store's tensors are known by
    identity, and the registrations of parameters and layers in all modules of the process are
    counted.

    Args:
        model: p(z) p(x | z), whose parameter store the pair uses.
        owned: the pair's tensors.
    """

    def __init__(self, model: Program, owned: Tensors) -> None:
        self._model, self._owned = model, owned
        self._learns = [value.requires_grad for value in owned.parameters.values()]
        self._known = {id(value) for value in owned.named.values()}
        # What a module holds is announced anew where the store has been cleared.
        held = {id(v) for module in owned.modules.values() for v in module.parameters()}
        mine = self._known - held
        self._announced = {k: v for k, v in stored(model).items() if id(v) in mine}
        self._stored, self._registered = _identities(stored(model)), registrations()

    def frozen_or_thawed(self) -> bool:
        """Whether a parameter has been frozen or unfrozen since the last call."""
        learns = [value.requires_grad for value in self._owned.parameters.values()]
        changed, self._learns = learns != self._learns, learns
        return changed

    def learning(self) -> dict[str, Tensor]:
        """Return the parameters that are not frozen, by name."""
        return {k: v for k, v in self._owned.parameters.items() if v.requires_grad}

    def refuse_new(self) -> None:
        """Check that the pair has made no parameter since its first batch, and has lost none.

        Raises:
            ValueError: it has made one, which the optimiser does not know.
        """
        store, registered = stored(self._model), registrations()
        held = _identities(store)
        if (held, registered) == (self._stored, self._registered):
            return
        for name, value in self._announced.items():
            if store.get(name) is not value:
                raise ValueError(
                    f"Parameter {name!r} of Pyro's parameter store was replaced or removed after "
                    "the first batch, so that the optimiser does not train what the pair uses. "
                    "Change it in place: with torch.no_grad(), "
                    f"pyro.get_param_store()[{name!r}].unconstrained().copy_(value); or make "
                    "another SVI."
                )
        named = {f"param.{name}": value for name, value in store.items()}
        for role, module in self._owned.modules.items():
            if role in ("model", "guide"):  # others are announced, or the loss does not reach them
                named |= {f"{role}.{name}": value for name, value in module.named_parameters()}
        new = {k: v for k, v in named.items() if v.requires_grad and id(v) not in self._known}
        if new:
            name, value = next(iter(new.items()))
            raise ValueError(
                f"Parameter {name!r} of shape {tuple(value.shape)} was first made after the first "
                "batch, so the optimiser does not train it. Make it in __init__, or on every "
                "batch under a name that does not depend on the data."
            )
        self._stored, self._registered = held, registered


def _identities(store: Mapping[str, Tensor]) -> list[int]:
    return [*map(id, store.values())]
