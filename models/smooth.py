"""Smooth surrogates of functions with jumps and corners, each with its limit."""

from collections.abc import Callable

import torch
from torch import Tensor


def smooth_maximum(x: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return :math:`\tau \log \sum_j e^{x_j / \tau}` over the last axis.

    It is above the maximum, by :math:`\tau \log C` at most, and is the maximum as tau goes to 0;
    its gradient is softmax(x / tau), the smooth indicator of the largest.

    Source: Su 2019, kexue.fm 6620.

    Args:
        x: numbers (..., C).
        temperature: tau, above 0.
    """
    return temperature * (x / temperature).logsumexp(-1)


def smooth_accuracy(logits: Tensor, label: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return the mean of :math:`\mathrm{softmax}(l / \tau)_y` over all data.

    The share of data whose largest logit is the label's, as tau goes to 0.

    Args:
        logits: of each class (..., C).
        label: the true class (...), integers.
        temperature: tau, above 0.
    """
    chances = (logits / temperature).softmax(-1)
    return chances.gather(-1, label.unsqueeze(-1)).mean()


def smooth_f1(chances: Tensor, label: Tensor) -> Tensor:
    r"""Return :math:`2 \sum_n p_n y_n / \sum_n (p_n + y_n)`, the F1 score where p is 0 or 1.

    Args:
        chances: p (N,) from 0 to 1.
        label: y (N,), 0 or 1.
    """
    return 2 * (chances * label).sum() / (chances + label).sum().clamp(min=1e-12)


def smoothed(
    function: Callable[[Tensor], Tensor], x: Tensor, width: float, nodes: int = 2001
) -> Tensor:
    r"""Return a function with jumps, smoothed by a normal kernel: :math:`\int f(y) K_h(x - y) dy`.

    The kernel goes to a delta function with its width h, and the integral to f(x) wherever f is
    continuous, to the middle of a jump at one. The gradient moves the kernel:
    :math:`\int f(y) K'_h(x - y) dy`, so f needs none.

    Args:
        function: elementwise, of bounded growth.
        x: where (...).
        width: h, above 0, the kernel's standard deviation.
        nodes: number of points y within 8 widths; a jump is placed to 16 h / nodes.
    """
    away = torch.linspace(-8, 8, nodes, dtype=x.dtype, device=x.device)
    y = (x.detach().unsqueeze(-1) + width * away).detach()
    kernel = (-((x.unsqueeze(-1) - y) / width).square() / 2).exp()
    kernel = kernel / kernel.detach().sum(-1, keepdim=True)
    return (function(y) * kernel).sum(-1)
