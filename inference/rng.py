"""Random states: saved, restored, and set aside."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.util import get_rng_state, set_rng_state

from .distributed import world


def get_state() -> dict[str, Any]:
    """Return the states of torch (CPU and CUDA devices), Python's random and NumPy.

    The result holds tensors and plain data only, so that ``torch.load(weights_only=True)`` takes
    it.
    """
    state = _present()
    algorithm, keys, *rest = state["numpy"]
    return {**state, "numpy": (algorithm, torch.from_numpy(keys.astype(np.int64)), *rest)}


def _present() -> dict[str, Any]:
    """Return the states as they are, NumPy's as an array."""
    state = get_rng_state()
    state["cuda"], state["cuda_present"] = [], 0
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
        state["cuda_present"] = torch.cuda.current_device()
    return state


def set_state(state: dict[str, Any]) -> None:
    """Restore what `get_state` returned, here or in another process.

    Each of several processes has a device of its own, and all go on from the state of the device
    that the saved one drew on, because a batch's draws are those of all processes. One process
    restores every device that is still there, and the present one where its own is not.

    Raises:
        ValueError: it is no such state; the present ones stay.
    """
    before = _present()
    try:
        algorithm, keys, *rest = state["numpy"]
        _restore({**state, "numpy": (algorithm, keys.numpy().astype(np.uint32), *rest)})
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        _restore(before)
        raise ValueError(f"The random states in the checkpoint are none: {error}") from error


def _restore(state: dict[str, Any]) -> None:
    set_rng_state(state)
    states, present = state["cuda"], state.get("cuda_present", 0)  # 0: of version 0.1
    if not states or not torch.cuda.is_available():
        return
    if world() > 1 or present >= torch.cuda.device_count():
        torch.cuda.set_rng_state(states[present])
    else:
        for place, each in enumerate(states[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(each, place)


def states_beside_torch() -> dict[str, Any]:
    """Return the global states of Python's and NumPy's random numbers, by name, to compare."""
    algorithm, keys, *rest = np.random.get_state()
    return {
        "Python's random": random.getstate(),
        "NumPy's np.random": (algorithm, np.asarray(keys).tobytes(), *rest),
    }


@contextmanager
def isolated(seed: int | None = None) -> Iterator[None]:
    """Leave every random state as it was found.

    Args:
        seed: where the streams start inside; None goes on from the present states.
    """
    before = _present()
    try:
        if seed is not None:
            pyro.set_rng_seed(seed)
        yield
    finally:
        _restore(before)
