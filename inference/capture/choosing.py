"""Choosing how to run: one function of the setting, the calls, and the device."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from .backends import Backend, Graph, Inductor

Compile = Literal["auto", "off", "graph", "inductor"]
"""How to run. ``off``: eagerly. ``graph``: replayed from one captured graph. ``inductor``: from
that graph, compiled. ``auto``: whichever pays."""

Setting = Compile | Backend
"""The same, or a backend of one's own."""


@dataclass(frozen=True)
class BreakEven:
    """Numbers of calls in all from which a way to run has paid for itself.

    Args:
        graph: for capturing.
        compiler: for compiling.
    """

    graph: int
    compiler: int


Kinds = dict[str, BreakEven]
"""By type of device; any other counts as a CPU."""

STEPS: Kinds = {"cpu": BreakEven(0, 30_000), "cuda": BreakEven(0, 100_000)}
"""Of training, which waits some steps before it captures: a short run is over by then. On a CPU
compiling takes ten seconds or more and saves a third of a millisecond a step. On an H200 a step of
a small VAE takes 3.9 ms eagerly, 0.32 ms as a CUDA graph and 0.20 ms as one of compiled kernels;
capturing takes a second, compiling 10 to 20."""

PASSES: Kinds = {"cpu": BreakEven(20, 1_000), "cuda": BreakEven(300, 10_000)}
"""Of an evaluation, over many more rows. On CUDA a capture saves the same 3.6 ms a call as in
training; what compiling saves there has not been measured, and is taken for a millisecond."""


class Choice(NamedTuple):
    """How to run.

    Attributes:
        backends: to try one after the other; without any, run eagerly.
        why: the reason, in words.
    """

    backends: tuple[Backend, ...]
    why: str


def choose(
    setting: Setting,
    calls: int | None,
    device: torch.device,
    pays: Kinds = PASSES,
    compiler: bool = True,
) -> Choice:
    """Choose how to run what is called again and again.

    Args:
        setting: what the user asks for.
        calls: how many there are in all; None where that is not known.
        device: where they run.
        pays: from how many calls ``auto`` captures and compiles.
        compiler: whether ``auto`` may compile at all.
    """
    if isinstance(setting, Backend):
        return Choice((setting,), "as asked for")
    if setting == "off":
        return Choice((), "as asked for")
    if setting != "auto":
        return Choice((Inductor() if setting == "inductor" else Graph(),), "as asked for")
    least = pays.get(device.type, pays["cpu"])
    length = "an unknown number of calls" if calls is None else f"{calls:,} calls"
    if calls is not None and calls < least.graph:
        return Choice((), f"{length} would not pay for a capture")
    if not compiler or calls is None or calls < least.compiler:
        return Choice((Graph(),), f"{length} would not pay for a compiler")
    if missing := Inductor().missing(device):
        return Choice((Graph(),), missing)
    return Choice((Inductor(), Graph()), f"{length} pay for the compiler")
