"""The param statements of programs, by what they hold: two programs may use one name."""

from collections.abc import Container
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


class ParamStatements(Messenger):
    """Keeps the unconstrained tensor of each param statement inside it.

    Two modules with an attribute of the same name make statements of the same name, of which a
    trace keeps the last. Where they share a store, it returns the first's tensor to the second,
    which goes on with its own: so earlier tensors of a name count too, and what a statement is
    given, if the loss reaches it. (An autoguide that sets itself up leaves one that it does not.)
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
        last = {id(tensor) for tensor in dict(self._returned).values()}
        for stated, tensor in [*self._returned, *self._given]:
            counts = reached is None or id(tensor) in last or id(tensor) in reached
            if id(tensor) in known or not counts:
                continue
            known.add(id(tensor))
            name, count = stated, 1
            while name in named:
                count += 1
                name = f"{stated}.{count}"
            named[name] = tensor
        return named
