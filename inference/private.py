"""What the core uses of Pyro and torch that neither promises to keep, with a fallback for each.

What `capture` alone uses is in ``capture/private.py``.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine import runtime
from torch import Tensor, nn
from torch.nn.modules import module as module_calls


class Unavailable:
    """Stands for `Operations`, a handler of every tensor operation inside it."""

    def __enter__(self) -> Any:
        """Raise: without a handler, nothing inside would be handled.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "this torch has no TorchDispatchMode, which shows tensor operations: take compile "
            "'off', precision '32' and one process"
        )

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode as Operations
else:
    try:
        from torch.utils._python_dispatch import TorchDispatchMode as Operations
    except ImportError:
        Operations = Unavailable


def changes_arguments(func: Any) -> bool:
    """Whether a tensor operation writes to one of its arguments; by its name, without a schema."""
    schema = getattr(func, "_schema", None)
    if schema is not None:
        return schema.is_mutable
    name, _, overload = str(func).removeprefix("aten.").partition(".")
    return name.endswith("_") or "out" in overload


def may_alias(func: Any) -> bool:
    """Whether a result may share memory with an argument; without a schema, yes."""
    schema = getattr(func, "_schema", None)
    return schema is None or any(result.alias_info is not None for result in schema.returns)


def writes(tensor: Tensor) -> int:
    """Return how often a tensor has been written to; 0 where torch does not count."""
    return getattr(tensor, "_version", 0)


def listens_to_parameters() -> bool:
    """Whether a handler of Pyro's wants param statements; without its stack, yes."""
    stack = getattr(runtime, "_PYRO_STACK", None)
    return stack is None or any(
        hasattr(handler, "_pyro_param") or hasattr(handler, "_pyro_post_param") for handler in stack
    )


def pyro_params(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the name in the parameter store of each PyroParam, and the module that has it.

    None where Pyro does not say, or where it gives each module a store of its own.
    """
    held = [m for m in root.modules() if isinstance(m, PyroModule)]
    try:
        if pyro.settings.get("module_local_params"):
            return []
        return [
            (getattr(m, "_pyro_get_fullname")(name), m)  # noqa: B009
            for m in held
            for name in getattr(m, "_pyro_params")  # noqa: B009
        ]
    except (AttributeError, KeyError):
        return []


def lives_by_statements(module: nn.Module) -> bool:
    """Whether a module has PyroParam or PyroSample attributes; a PyroModule without lists, yes."""
    return isinstance(module, PyroModule) and bool(
        getattr(module, "_pyro_params", True) or getattr(module, "_pyro_samples", True)
    )


_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


def quiet(program: Callable[..., Any]) -> Callable[..., Any]:
    """Return a PyroModule's program without its announcements of ordinary parameters.

    At each access of a submodule a PyroModule makes a param statement for every parameter in it, a
    twentieth of a small VAE's step, which serves nothing where no handler listens. PyroParam and
    PyroSample attributes need such statements: a module that has one keeps them all. So does one
    whose call does more than its ``forward``.
    """
    if not isinstance(program, PyroModule) or listens_to_parameters():
        return program
    own = type(program).__call__ is not PyroModule.__call__
    if own or any(getattr(program, f"_{name}", True) for name in _HOOKS):
        return program
    # Those of every module: torch.nn.modules.module.register_module_forward_hook and its like.
    if any(getattr(module_calls, f"_global_{name}", True) for name in _HOOKS):
        return program
    return program if any(map(lives_by_statements, program.modules())) else program.forward
