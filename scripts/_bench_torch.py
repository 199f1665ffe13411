"""The training step as this project takes it, as Pyro does, and written by hand in torch."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Adam

from inference import SVI
from scripts._bench_pairs import Networks, Setting, networks

Turn = Callable[[Tensor], Tensor]
"""Takes a step at each row of places (N, B); returns the losses (N,) or their mean, nats a datum.

N is a multiple of ``_bench_timing.CHUNK``."""


class LeftOut(Exception):  # noqa: N818  (a finding)
    """A contender does not serve this case or this machine; the message says why."""


def ours(setting: Setting, compile: Any, precision: Any = "32") -> Turn:  # noqa: A002  (SVI's)
    """Take the steps of `inference.SVI`."""
    svi = SVI(
        *setting.pair(),
        optimizer=partial(Adam, lr=setting.learning_rate, fused=True),
        objective=setting.case.objective,
        compile=compile,
        precision=precision,
    )
    source = setting.split.batch
    return lambda places: -torch.stack([svi.step(row, source=source).bound for row in places])


def pyro_loop(setting: Setting) -> Turn:
    """Take the steps of Pyro's SVI, with its Adam and its ELBO, or RenyiELBO for particles."""
    levels, images, case = setting.levels, setting.split.stored, setting.case
    elbo = pyro.infer.Trace_ELBO()  # type: ignore[attr-defined]
    if case.particles > 1:
        elbo = pyro.infer.RenyiELBO(0, case.particles, vectorize_particles=True)  # type: ignore[attr-defined]
    svi = pyro.infer.SVI(*setting.pair(), pyro.optim.Adam({"lr": setting.learning_rate}), elbo)  # type: ignore[attr-defined]

    def turn(places: Tensor) -> Tensor:
        losses = [svi.step(torch.bernoulli(images[row] / levels)) for row in places]
        return torch.tensor(losses) / case.batch_size

    return turn


class Loss(nn.Module):
    """The loss of a batch written by hand, in nats per datum.

    Args:
        setting: the case and its data.
        parts: encoder, decoder and flows.
    """

    def __init__(self, setting: Setting, parts: Networks) -> None:
        super().__init__()
        self.encoder, self.decoder = parts[:2]
        self.flows = nn.ModuleList(parts[2])
        self.stored = setting.split.stored
        self.levels = setting.levels
        self.particles = setting.case.particles

    def forward(self, places: Tensor) -> Tensor:
        """Gather, binarise, and return minus the bound at the data of these places (B,)."""
        stored = self.stored.index_select(0, places)
        x = (torch.rand(stored.shape, device=stored.device) * self.levels < stored).float()
        log_w = self.log_weights(x, self.particles)
        if self.particles == 1:
            return -log_w.mean()
        return math.log(self.particles) - log_w.logsumexp(0).mean()

    def log_weights(self, x: Tensor, particles: int) -> Tensor:
        """Return log p(x, z) - log q(z | x) at K draws of each datum, (K, B)."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        noise = torch.randn(particles, *loc.shape, device=x.device)
        z = loc + log_scale.exp() * noise
        log_q = -(noise.square() / 2 + log_scale).sum(-1)  # constants of q and p(z) cancel
        for flow in self.flows:
            shift, log_slope = flow(z)
            log_slope = log_slope + (log_slope.clamp(-5, 3) - log_slope).detach()
            z = log_slope.exp() * z + shift
            log_q = log_q - log_slope.sum(-1)
        logits = self.decoder(z).reshape(*z.shape[:-1], -1)
        target = x.flatten(1).expand_as(logits)
        distortion = nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        )
        return -distortion.sum(-1) - z.square().sum(-1) / 2 - log_q


def torch_eager(setting: Setting) -> Turn:
    """Take steps written by hand, eagerly."""
    loss = Loss(setting, networks(setting.pair()))
    return _one_by_one(_step(loss, loss.parameters(), setting.learning_rate))


def torch_compiled(setting: Setting) -> Turn:
    """Take steps written by hand, the whole loss compiled."""
    loss = Loss(setting, networks(setting.pair()))
    compiled = torch.compile(loss, fullgraph=True, dynamic=False)
    return _one_by_one(_step(compiled, loss.parameters(), setting.learning_rate))


def torch_cuda_graph(setting: Setting, compiled: bool) -> Turn:
    """Take steps written by hand, each one replayed whole from a CUDA graph."""
    if setting.split.device.type != "cuda":
        raise LeftOut("no CUDA device")
    loss = Loss(setting, networks(setting.pair()))
    called = torch.compile(loss, fullgraph=True, dynamic=False) if compiled else loss
    return _one_by_one(
        CudaGraphed(_step(called, loss.parameters(), setting.learning_rate, capturable=True))
    )


class CudaGraphed:
    """A step that is taken three times on a side stream, then recorded, and then replayed.

    Args:
        step: takes a row of places (B,) and returns the loss.
    """

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        self.step = step
        self.taken = 0
        self.graph = torch.cuda.CUDAGraph()
        self.stream = torch.cuda.Stream()

    def __call__(self, places: Tensor) -> Tensor:
        """Take the step."""
        if self.taken < 3:
            self.taken += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self.step(places)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.taken == 3:
            self.taken += 1
            self.places = places.clone()
            with torch.cuda.graph(self.graph):
                self.loss = self.step(self.places)
        self.places.copy_(places)
        self.graph.replay()
        return self.loss.clone()


def _step(
    loss: Callable[[Tensor], Tensor],
    parameters: Any,
    learning_rate: float,
    capturable: bool = False,
) -> Callable[[Tensor], Tensor]:
    optimizer = Adam(parameters, lr=learning_rate, fused=True, capturable=capturable)

    def step(places: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(places)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def _one_by_one(step: Callable[[Tensor], Tensor]) -> Turn:
    return lambda places: torch.stack([step(row) for row in places])
