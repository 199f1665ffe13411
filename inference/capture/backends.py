"""Backends: ways to run a captured graph. A new one is a class with `Backend.compile`."""

import importlib.util
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from .graph_passes import take_out_draws
from .private import compile_graph, leave_to_kernel
from .products import linear

Replay = Callable[..., Sequence[Tensor]]


class Backend(ABC):
    """A way to run a captured graph.

    Attributes:
        name: what logs and `SVI.captured` call it.
    """

    name: ClassVar[str]

    def missing(self, device: torch.device) -> str | None:  # noqa: ARG002
        """Return what it lacks on this device, in words; None if it lacks nothing."""
        return None

    @abstractmethod
    def compile(self, graph: GraphModule, device: torch.device) -> Replay:
        """Return a function that does what the graph does, with the same random numbers.

        `capture` calls that function once on the inputs of the capture, which changes nothing, and
        turns an error of either into `NotCapturable`.

        Args:
            graph: of tensor operations; its first arguments are the tensors that it holds.
            device: of its inputs.
        """


class Graph(Backend):
    """Replays the operations one by one, without Python's part of the programs."""

    name = "graph"

    def compile(self, graph: GraphModule, device: torch.device) -> Replay:  # noqa: ARG002
        """Return the graph's own function."""
        return graph.forward


class Inductor(Backend):
    """Has ``torch.compile`` fuse the operations: the fastest, after seconds of compiling."""

    name = "inductor"

    def missing(self, device: torch.device) -> str | None:
        """Return which compiler is missing: C++ on a CPU; on CUDA Triton, and C, which it needs."""
        if device.type == "cuda":
            if not importlib.util.find_spec("triton"):
                return "Triton is not installed"
            return None if _installed("CC", "gcc", "clang") else "no C compiler is installed"
        return None if _installed("CXX", "g++", "clang++") else "no C++ compiler is installed"

    def compile(self, graph: GraphModule, device: torch.device) -> Replay:
        """Return the compiled graph, which draws its random numbers before it runs."""
        leave_to_kernel(linear)
        draw = take_out_draws(graph).forward
        call = compile_graph(graph, device)
        return lambda *tensors: call(*draw(), *tensors)


def _installed(variable: str, *names: str) -> bool:
    return any(map(shutil.which, filter(None, (os.environ.get(variable), *names))))
