"""Passes of an evaluation: as many particles as memory has room for, fewer where it runs out."""

import logging
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from inference import Compile
from inference.data import Split
from inference.evaluation import evaluate, tiles
from inference.evaluation.tiles import Tiles, fitting

from .pairs import PAIRS

DRAWS = 100


def evaluated(particles_at_once: int, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Any:
    pyro.set_rng_seed(0)
    pair = PAIRS["bernoulli"]()
    split = Split(pair.x.repeat(2, 1, 1, 1))
    monkeypatch.setattr(tiles, "ROWS_PER_PASS", particles_at_once * len(split))
    monkeypatch.setattr(tiles, "data_of_a_pass", lambda *_: len(split))
    monkeypatch.setattr("inference.evaluation.bounds.data_of_a_pass", lambda *_: len(split))
    return evaluate(pair.model, pair.guide, split, particles=DRAWS, show_progress=False, **how)


def short_of_memory(most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a pass of more particles run out of memory; return the particles of those tried."""
    tried: list[int] = []
    weigh = Tiles.__init__

    def init(self: Tiles, call: Callable[..., Any], *rest: Any) -> None:
        def limited(*batch: Tensor, count: int) -> Any:
            tried.append(count)
            if count > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 48.00 GiB.")
            return call(*batch, count=count)

        weigh(self, limited, *rest)

    monkeypatch.setattr(Tiles, "__init__", init)
    return tried


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_it_goes_on_with_half_where_memory_runs_out(
    compile: Compile,  # noqa: A002
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The result is that of the smaller passes from the start, to the last bit."""
    expected = evaluated(16, monkeypatch, compile=compile)
    caplog.set_level(logging.INFO, "inference")
    tried = short_of_memory(20, monkeypatch)
    found = evaluated(64, monkeypatch, compile=compile)
    assert 64 in tried
    assert 32 in tried
    assert 16 in tried
    for name in ("elbo", "rate", "log_px", "k_hat", "ess"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert "Memory is short (CUDA out of memory" in caplog.text


def test_one_particle_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        evaluated(8, monkeypatch)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_values_do_not_depend_on_the_passes(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """log_px of 12 data, against one pass of all draws: each |z| < 4.5."""
    a, b = evaluated(at_once, monkeypatch), evaluated(DRAWS, monkeypatch)
    z = (a.log_px - b.log_px) / (a.log_px_mc_se.square() + b.log_px_mc_se.square()).sqrt()
    assert z.abs().max() < 4.5
    if at_once == DRAWS:
        assert torch.equal(a.log_px, b.log_px)


class Device:
    """Memory of a device: a pass holds so many bytes, and more for each particle."""

    def __init__(self, base: int, each: int, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self.each, self.peak = base, each, 0
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "memory_allocated", lambda: 1000)
        monkeypatch.setattr(cuda, "memory_reserved", lambda: 1000)
        monkeypatch.setattr(cuda, "max_memory_allocated", lambda: 1000 + self.peak)
        monkeypatch.setattr(cuda, "reset_peak_memory_stats", lambda: setattr(self, "peak", 0))
        monkeypatch.setattr(cuda, "mem_get_info", lambda: (free, free))

    def take(self, count: int) -> None:
        self.peak = max(self.peak, self.base + self.each * count)


@pytest.mark.parametrize(
    ("base", "each", "free", "wanted", "expected"),
    [
        (10, 1 << 20, 140 << 30, 64, 64),  # small: as many as wanted, not a power of two less
        (10, 1 << 20, 140 << 30, 50, 50),
        (0, 750 << 20, 140 << 30, 64, 8),  # 8 GB a pass, whatever is free: 10, so 8
        (0, 750 << 20, 8 << 30, 64, 4),  # half of 8 GB: 5, so 4
        (6 << 30, 1 << 30, 140 << 30, 64, 2),
        (20 << 30, 1 << 30, 140 << 30, 64, 1),
        (0, 0, 140 << 30, 64, 64),
        (0, 1 << 40, 140 << 30, 1, 1),
    ],
)
def test_passes_fit_the_memory(
    base: int, each: int, free: int, wanted: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fitting(Device(base, each, free, monkeypatch).take, wanted) == expected
