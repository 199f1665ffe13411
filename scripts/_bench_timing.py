"""Timing in turns: what disturbs a machine then disturbs all contenders alike."""

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PRODUCT = (1024, 784, 400)
"""Sizes (M, K, N) of the matrix product by which a machine is measured: the largest of the MLP."""

COUNTS = {"cpu": 20, "cuda": 1000}
"""How many such products are timed at once, by type of device."""

CHUNK = 20
"""The least number of steps that is timed, and what every number of them is a multiple of."""


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes, until the device has done what the call asked of it."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of every call, by name, one for each round; each round calls all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
    return taken


def steps_in(wanted: float, step: float, most: int = 1_000_000) -> int:
    """Return how many steps take the wanted seconds where one takes ``step``; whole chunks."""
    return min(most, CHUNK * max(1, round(wanted / step / CHUNK)))


def spread(values: list[float]) -> list[float]:
    """Return median, lowest and highest."""
    return [statistics.median(values), min(values), max(values)]


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """Return median, lowest and highest, over the rounds, of one time over another."""
    return spread([p / q for p, q in zip(slow, fast, strict=True)])


def products(device: torch.device) -> Callable[[], None]:
    """Return a call that takes some matrix products of the sizes of `PRODUCT`, in float32."""
    m, k, n = PRODUCT
    a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
    out = torch.empty(m, n, device=device)

    def multiply() -> None:
        for _ in range(COUNTS[device.type]):
            torch.mm(a, b, out=out)

    multiply()
    return multiply


def product_rate(taken: list[float], device: torch.device) -> float:
    """Return the operations a second of `products`, in GFLOP/s, from its times."""
    return 2 * math.prod(PRODUCT) * COUNTS[device.type] / statistics.median(taken) / 1e9


def device_peak(call: Callable[[], object]) -> float:
    """Return the most gigabytes of the CUDA device that a call's tensors hold at once."""
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 1024**3


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    return {
        "machine": platform.node(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "float32 products": torch.get_float32_matmul_precision(),
        **{name: _version(name) for name in ("torch", "pyro-ppl", "numpyro", "jax", "pythae")},
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
