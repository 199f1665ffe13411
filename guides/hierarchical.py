"""Guides of several stochastic layers: bottom-up, and top-down as a ladder."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn


class BottomUp(PyroModule):
    r"""Each layer from the one below: :math:`q(z_1 \mid x) \prod_l q(z_{l+1} \mid z_l)`.

    The upper layers see x only through the draws below, and the guide runs against the order of
    the model; `Ladder` does neither. The latent sites are called ``z_1``, ..., ``z_L``.

    Source: Rezende, Mohamed and Wierstra 2014, arXiv 1401.4082; Burda et al. 2016, arXiv
    1509.00519.

    Args:
        layers: from the bottom up, L of them: the first a module from x (B, *event_shape) to a
            distribution with batch_shape (B,), event_shape (Z_1,), the next from z_1 (..., Z_1) to
            one with batch_shape (...), event_shape (Z_2,), and so on; such as
            ``nn.Sequential(encoder, family)``.
    """

    layers: nn.ModuleList

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return z_L (..., B, Z_L)."""
        with pyro.plate("data", len(x)):
            z = x
            for level, layer in enumerate(self.layers, start=1):
                z = pyro.sample(f"z_{level}", layer(z))
            return z


class Ladder(PyroModule):
    r"""Top-down: evidence from a pass upwards, combined with the model's own prior on the way down.

    A deterministic pass gives :math:`d_1 = f_1(x), \dots, d_L = f_L(d_{L-1})` and what each level
    says of its latent vector, :math:`\mathcal N(\hat\mu_l, \hat\sigma_l^2)`. The top layer is drawn
    from that; below it, evidence and prior :math:`\mathcal N(\mu_p, \sigma_p^2)` of
    :math:`p(z_l \mid z_{l+1})` are weighed by their precisions:

    .. math:: q(z_l \mid z_{l+1}, x) = \mathcal N\!\left(
              \frac{\hat\mu_l \hat\sigma_l^{-2} + \mu_p \sigma_p^{-2}}
                   {\hat\sigma_l^{-2} + \sigma_p^{-2}},
              \frac{1}{\hat\sigma_l^{-2} + \sigma_p^{-2}} \right).

    With linear-Gaussian layers that is the form of the exact posterior; and a level without
    evidence costs no KL. The guide shares the parameters of the model's layers. The latent sites
    are called ``z_1``, ..., ``z_L``.

    Source: Sonderby et al. 2016, arXiv 1602.02282.

    Args:
        steps: the pass upwards, L modules: the first from x (B, *event_shape) to d_1 (B, H_1), the
            next from d_1 to d_2 (B, H_2), and so on.
        heads: L modules, from d_l to a normal with batch_shape (B,), event_shape (Z_l,), such as
            ``nn.Sequential(nn.Linear(H_l, 2 * Z_l), DiagonalNormal(Z_l))``.
        priors: the model's p(z_l | z_{l+1}) from the top down, L - 1 modules: from z_{l+1}
            (..., Z_{l+1}) to a normal with event_shape (Z_l,); the ``layers`` of the model.

    Raises:
        ValueError: the numbers of parts don't fit.
    """

    steps: nn.ModuleList
    heads: nn.ModuleList
    priors: nn.ModuleList

    def __init__(
        self, steps: Sequence[nn.Module], heads: Sequence[nn.Module], priors: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        if not len(steps) == len(heads) == len(priors) + 1:
            raise ValueError(
                f"Expected L steps, L heads and L - 1 priors; got {len(steps)}, {len(heads)} and "
                f"{len(priors)}. The top layer's prior is not among them."
            )
        self.steps = nn.ModuleList(steps)
        self.heads = nn.ModuleList(heads)
        self.priors = nn.ModuleList(priors)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return z_1 (..., B, Z_1)."""
        d, evidence = x, []
        for step, head in zip(self.steps, self.heads, strict=True):
            d = step(d)
            evidence.append(head(d))
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{len(evidence)}", evidence.pop())
            for prior in self.priors:
                level = len(evidence)
                z = pyro.sample(f"z_{level}", product(evidence.pop(), prior(z)))
            return z


def product(p: Any, q: Any) -> TorchDistributionMixin:
    r"""Return the normal whose density is proportional to the product of two independent normals'.

    Args:
        p: independent normals, event_shape (Z,).
        q: likewise; the batch shapes broadcast.
    """
    precision_p, precision_q = p.variance.reciprocal(), q.variance.reciprocal()
    variance = (precision_p + precision_q).reciprocal()
    loc = (p.mean * precision_p + q.mean * precision_q) * variance
    return dist.Normal(loc, variance.sqrt()).to_event(1)
