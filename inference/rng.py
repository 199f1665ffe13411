"""Random states: saved, restored, and set aside."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.util import get_rng_state, set_rng_state


def get_state() -> dict[str, Any]:
    """Return the states of torch (CPU and every CUDA device), Python's random and NumPy.

    The result holds tensors and plain data only, so that ``torch.load(weights_only=True)`` takes
    it.
    """
    state = get_rng_state()
    algorithm, keys, *rest = state["numpy"]
    state["numpy"] = (algorithm, torch.from_numpy(keys.astype(np.int64)), *rest)
    state["cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return state


def set_state(state: dict[str, Any]) -> None:
    """Restore what `get_state` returned."""
    algorithm, keys, *rest = state["numpy"]
    set_rng_state({**state, "numpy": (algorithm, keys.numpy().astype(np.uint32), *rest)})
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


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
    before = get_state()
    try:
        if seed is not None:
            pyro.set_rng_seed(seed)
        yield
    finally:
        set_state(before)
