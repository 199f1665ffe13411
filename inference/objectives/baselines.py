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
        before = (self.total / self.weight.clamp(min=1e-30)).to(reward)
        if torch.is_grad_enabled():  # an evaluation leaves it as it is
            self.total.mul_(self.decay).add_((1 - self.decay) * reward.mean().to(self.total))
            self.weight.mul_(self.decay).add_(1 - self.decay)
        return before
