"""Priors of discrete codes that know of each other: each follows those before it."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import MaskedLinear
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from .discrete_priors import refuse_one_value
from .networks import refuse_no_width
from .priors import Prior


class AutoregressiveBernoulli(Prior):
    r"""Bits that follow those before: :math:`p(z_i = 1 \mid z_{<i}) = \sigma(l_i(z_{<i}))`.

    The log odds come from one masked network. A density costs one pass, a draw Z of them. Its
    family of posteriors is `guides.Bernoulli`.

    Sources: Germain et al. 2015, arXiv 1502.03509 (the network); Gregor et al. 2014, arXiv
    1310.8499 (as a prior).

    >>> from models import AutoregressiveBernoulli
    >>> AutoregressiveBernoulli(3)().event_shape
    torch.Size([3])

    Args:
        latent_dim: number Z of bits.
        hidden: widths of the network's hidden layers.
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.network = _Masked(latent_dim, 1, hidden)

    def forward(self) -> TorchDistribution:
        """Return the law of the bits, event_shape (Z,)."""
        return _Coins(lambda z: self.network(z.unsqueeze(-1)).squeeze(-1), self.network.codes)


class AutoregressiveCategorical(Prior):
    r"""Choices that follow those before: :math:`p(z_i = e_c \mid z_{<i})`, a softmax of C logits.

    The logits come from one masked network of the one-hot vectors before. A density costs one
    pass, a draw Z of them. Its family of posteriors is `guides.Categorical` with as many values.

    Sources: Germain et al. 2015, arXiv 1502.03509 (the network); van den Oord et al. 2017, arXiv
    1711.00937 (as a prior of codes).

    >>> from models import AutoregressiveCategorical
    >>> AutoregressiveCategorical(3, values=4)().event_shape
    torch.Size([3, 4])

    Args:
        latent_dim: number Z of codes.
        values: number C of values of each code, at least 2.
        hidden: widths of the network's hidden layers.
    """

    def __init__(self, latent_dim: int, values: int = 10, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        refuse_one_value(values)
        self.numbers = values
        self.network = _Masked(latent_dim, values, hidden)

    def forward(self) -> TorchDistribution:
        """Return the law of the codes, event_shape (Z, C)."""
        return _Dice(self.network, self.network.codes)


class _Masked(nn.Module):
    """A network from z (..., Z, C) to numbers (..., Z, C), each row seeing those before it.

    A hidden unit of degree d sees the first d codes, and code d + 2 and later see it; degrees go
    from 1 to Z - 1 in turns, so that any width will do.
    """

    codes: Tensor

    def __init__(self, size: int, values: int, hidden: Sequence[int]) -> None:
        super().__init__()
        refuse_no_width(hidden)
        code = torch.arange(1, size + 1).repeat_interleave(values)
        degrees = [1 + torch.arange(width) % max(size - 1, 1) for width in hidden]
        layers: list[nn.Module] = []
        for before, after in zip([code, *degrees], degrees, strict=False):
            mask = (after.unsqueeze(1) >= before).to(torch.get_default_dtype())
            layers += [MaskedLinear(len(before), len(after), mask), nn.ReLU()]
        mask = (code.unsqueeze(1) > degrees[-1]).to(torch.get_default_dtype())
        layers.append(MaskedLinear(len(degrees[-1]), len(code), mask))
        self.layers = nn.Sequential(*layers)
        self.register_buffer("codes", torch.zeros(size, values), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the numbers (..., Z, C)."""
        return self.layers(z.flatten(-2)).reshape(z.shape)


class _Following(TorchDistribution):
    """The law of a sequence, whose element follows those before it.

    Its log mass is one of soft values too, as relaxed draws are, so that values are not validated.

    Args:
        logits: from z (..., *event_shape) to logits of the same shape, element by element.
        like: a tensor of the draws' event shape, type and device.
        batch_shape: of independent copies.
    """

    arg_constraints: Any = {}  # type: ignore[misc]  # noqa: RUF012  (every real number will do)

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        like: Tensor,
        batch_shape: Any = (),
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.like = logits, like
        super().__init__(torch.Size(batch_shape), like.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_Following":
        """Return the distribution with another batch shape."""
        check = self.__dict__.get("_validate_args")
        return type(self)(self.logits, self.like, batch_shape, check)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z (*sample_shape, *batch_shape, *event_shape), one element a pass."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise, z = self.noise(self.like.expand(shape)), self.like.new_zeros(shape)
        size = self.event_shape[0]
        place = torch.arange(size, device=z.device).reshape(-1, *[1] * (len(self.event_shape) - 1))
        for known in range(size):
            z = torch.where(place == known, self.hard(self.logits(z) + noise), z)
        return z

    @abstractmethod
    def noise(self, like: Tensor) -> Tensor:
        """Return noise of a tensor's shape."""

    @abstractmethod
    def hard(self, noisy: Tensor) -> Tensor:
        """Return the draw that belongs to noisy logits."""


class _Coins(_Following):
    """Bits."""

    support: Any = constraints.independent(constraints.boolean, 1)  # type: ignore[misc]

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        like: Tensor,
        batch_shape: Any = (),
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(logits, like.reshape(len(like)), batch_shape, validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p (...) of bits (..., Z); it is one of soft bits too."""
        logits = self.logits(value)
        return (value * logits - F.softplus(logits)).sum(-1)

    def noise(self, like: Tensor) -> Tensor:
        """Return logistic noise."""
        other = torch.empty_like(like).exponential_().log()
        return other - torch.empty_like(like).exponential_().log()

    def hard(self, noisy: Tensor) -> Tensor:
        """Return 1 where it is above 0."""
        return (noisy > 0).to(noisy.dtype)


class _Dice(_Following):
    """One-hot vectors."""

    support: Any = constraints.independent(constraints.one_hot, 1)  # type: ignore[misc]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p (...) of one-hot vectors (..., Z, C); it is one of soft vectors too."""
        return (value * self.logits(value).log_softmax(-1)).sum((-2, -1))

    def noise(self, like: Tensor) -> Tensor:
        """Return Gumbel's noise."""
        return -torch.empty_like(like).exponential_().log()

    def hard(self, noisy: Tensor) -> Tensor:
        """Return the place of the largest."""
        # torch's own one_hot reads values, which a capture can't.
        return torch.zeros_like(noisy).scatter_(-1, noisy.argmax(-1, keepdim=True), 1.0)
