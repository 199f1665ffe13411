"""The param statements of programs, by what they hold: two programs may use one name."""

from collections.abc import Container
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


class ParamStatements(Messenger):
    """Keeps the unconstrained tensor of each param statement inside it.

    Two modules with an attribute of the same name make statements of the same name, of which a
    trace keeps the last. Where they share a store, it returns the first's tensor to the second,
    which goes on with its own: so what a statement is given counts too, if the loss reaches it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._returned: list[tuple[str, Tensor]] = []
        self._given: list[tuple[str, Tensor]] = []

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        tensor = getattr(value, "unconstrained", lambda: value)()
        self._returned.append((msg["name"], tensor))
        for each in msg["args"]:
            if isinstance(each, nn.Parameter) and each is not tensor:
                self._given.append((msg["name"], each))

    def found(self, reached: Container[int] | None) -> dict[str, Tensor]:
        """Return each tensor once, by name; one of a name that is taken has a number behind it.

        Args:
            reached: ids of the tensors that the loss reaches; None where that is not known.
        """
        named: dict[str, Tensor] = {}
        known: set[int] = set()
        given = [(n, t) for n, t in self._given if reached is None or id(t) in reached]
        for stated, tensor in [*self._returned, *given]:
            if id(tensor) in known:
                continue
            known.add(id(tensor))
            name, count = stated, 1
            while name in named:
                count += 1
                name = f"{stated}.{count}"
            named[name] = tensor
        return named
