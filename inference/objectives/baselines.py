"""Baselines: what is taken from the reward of a score function to lower its noise."""

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """The mean of the rewards of earlier batches, forgotten exponentially; one for all data.

    Its buffers are saved with a run, so that a resumed one has the same baseline.

    Args:
        decay: share of the old mean that is kept at each batch.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.95) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, reward: Tensor) -> Tensor:
        """Return the mean before these rewards, 0 at first; then take them in."""
        if self.total.device != reward.device:  # of the first batch: each step would wait for it
            self.to(reward.device)
        before = self.value().to(reward)
        if torch.is_grad_enabled():  # an evaluation leaves it as it is
            self.total.mul_(self.decay).add_((1 - self.decay) * reward.mean().to(self.total))
            self.weight.mul_(self.decay).add_(1 - self.decay)
        return before

    def value(self) -> Tensor:
        """Return the mean so far, 0 at first."""
        return self.total / self.weight.clamp(min=1e-30)


class OfInput(nn.Module):
    r"""The running mean, and a network of x that learns what is left of the reward.

    One hidden layer of tanh units, made at the first batch; it descends the squared error of the
    reward, divided by the running deviation, a step a batch. Its buffers are saved with a run.

    Source: Mnih and Gregor 2014, arXiv 1402.0030 (NVIL).

    Args:
        hidden: number of hidden units.
        learning_rate: of the network.
    """

    def __init__(self, hidden: int = 100, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.hidden, self.learning_rate = hidden, learning_rate
        self.mean, self.square = RunningMean(), RunningMean()

    def forward(self, reward: Tensor, x: Tensor) -> Tensor:
        """Return what it expects of the rewards (K, B) of x (B, ...); then learn from them."""
        inputs = x.detach().flatten(1) if x.dim() > 1 else x.detach().unsqueeze(1)
        # Counts may be large. All sums have the size of one term, so that the rate suits any x.
        inputs = inputs.to(reward).asinh() / inputs.shape[1] ** 0.5
        if "inner" not in dict(self.named_buffers()):
            self._make(inputs)
        rest = reward - self.mean(reward)
        scale = self.square(rest.square()).sqrt()
        known, scale = scale > 0, torch.where(scale > 0, scale, 1.0)
        wanted = torch.where(known, rest.mean(0) / scale, 0.0).clamp(-10, 10)
        names = ("inner", "shift", "outer")
        with torch.enable_grad():
            inner, shift, outer = (getattr(self, n).detach().requires_grad_() for n in names)
            found = (inputs @ inner + shift).tanh() @ outer / self.hidden**0.5
            error = (found - wanted).square().mean()
            slopes = torch.autograd.grad(error, [inner, shift, outer])
        expected = reward - rest + scale * found.detach()
        if torch.is_grad_enabled():  # an evaluation leaves it as it is
            for name, slope in zip(names, slopes, strict=True):
                getattr(self, name).sub_(self.learning_rate * slope)
        return expected

    def _make(self, inputs: Tensor) -> None:
        size = inputs.shape[1]
        self.register_buffer("inner", torch.randn(size, self.hidden).to(inputs))
        self.register_buffer("shift", torch.zeros(self.hidden).to(inputs))
        self.register_buffer("outer", torch.zeros(self.hidden).to(inputs))
