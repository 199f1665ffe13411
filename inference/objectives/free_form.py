"""What is learned of a gradient's noise: a network's control variate, and a temperature."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .baselines import RunningMean

WIDEST = 3.0
"""The temperature's factor lies within e^-3 and e^3: beyond, a relaxed draw is hard or constant."""


class FreeForm(nn.Module):
    r"""A function of noisy logits, :math:`r(z) = s\, v^\top \tanh(W^\top z + c) / \sqrt H`.

    s is the running deviation of the gradient, so that the rate suits any reward. Its weights and
    the logarithm of the temperature's factor descend the squared gradient that it leaves, a step a
    batch. Its buffers are saved with a run.

    Source: Grathwohl et al. 2018, arXiv 1711.00123.

    Args:
        hidden: number H of hidden units.
        share: of the relaxed draw's control variate, from the gradient and that variate.
        learning_rate: of the network.
        slower: how much slower the temperature learns, whose slope is noisier.
    """

    warmth: Tensor

    def __init__(
        self, hidden: int, share: nn.Module, learning_rate: float = 0.1, slower: float = 0.1
    ) -> None:
        super().__init__()
        self.hidden, self.learning_rate, self.slower = hidden, learning_rate, slower
        self.share, self.square = share, RunningMean()
        self.register_buffer("warmth", torch.zeros(()))

    def log_factor(self, device: torch.device) -> Tensor:
        """Return the logarithm of the temperature's factor, to be differentiated by."""
        if self.warmth.device != device:  # of the first batch: each step would wait for it
            self.to(device)
        return self.warmth.detach().clone().requires_grad_()

    def forward(
        self,
        g: Tensor,
        h: Tensor,
        noisy: Tensor,
        variate: Callable[[Tensor, Tensor], Tensor],
        warmth: Tensor,
    ) -> Tensor:
        """Return the gradient less both control variates; then learn from what is left.

        Args:
            g: the gradient by each logit, (K, B, D).
            h: the relaxed draw's control variate, a function of ``warmth``, (K, B, D).
            noisy: z, (K, B, D).
            variate: the control variate of a function by its value (K, B, 1), its slope (K, B, D).
            warmth: what `log_factor` returned.

        Raises:
            ValueError: it has learned from another number D of logits.
        """
        if "inner" not in dict(self.named_buffers()):
            self._make(noisy)
        size = len(self.get_buffer("inner"))
        if noisy.shape[-1] != size:
            raise ValueError(
                f"Relax has learned from {size} logits a datum, and this pair has "
                f"{noisy.shape[-1]}. Make a Relax for each pair."
            )
        names = ("inner", "shift", "outer")
        inner, shift, outer = (getattr(self, n).detach().clone().requires_grad_() for n in names)
        units = (noisy @ inner + shift).tanh()
        pull = outer / self.hidden**0.5
        own = variate((units @ pull).unsqueeze(-1), ((1 - units.square()) * pull) @ inner.T)
        deviation = self.square.value().to(g).sqrt()
        share = self.share(g - deviation * own.detach(), h.detach())
        rest = g - share * h
        self.square(rest.detach().square())
        known = deviation > 0
        wanted = torch.where(known, rest / torch.where(known, deviation, 1.0), 0.0).clamp(-10, 10)
        error = (wanted - own).square().mean()
        # The surrogate is differentiated through the same graph later.
        slopes = torch.autograd.grad(error, [inner, shift, outer, warmth], retain_graph=True)
        for name, slope in zip(names, slopes, strict=False):
            getattr(self, name).sub_(self.learning_rate * slope)
        step = self.slower * self.learning_rate * slopes[-1].clamp(-1, 1)
        self.warmth.sub_(step).clamp_(-WIDEST, WIDEST)
        return (rest - deviation * own).detach()

    def _make(self, noisy: Tensor) -> None:
        size = noisy.shape[-1]
        inner = torch.randn(size, self.hidden) / size**0.5
        self.register_buffer("inner", inner.to(noisy))
        self.register_buffer("shift", torch.zeros(self.hidden).to(noisy))
        self.register_buffer("outer", torch.zeros(self.hidden).to(noisy))
