"""A likelihood whose elements depend on each other: pixel after pixel, by masked convolutions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints
from torch.nn import functional as F

from .likelihoods import Bernoulli, Likelihood


class Autoregressive(Likelihood):
    r"""Images pixel by pixel: :math:`p(x \mid z) = \prod_i p(x_i \mid x_{<i}, z)`, row after row.

    Masked convolutions over x, the decoder's output added to the first, give the parameters of
    another likelihood's pixels. One pass gives the density of an image; a draw takes a pass for
    each pixel. All channels of a pixel are independent, given the pixels before
    it. The decoder puts out an image of features, shape (features, H, W).

    Such a model can do without z, and then **the posterior collapses**: warm up the KL
    (``--kl_weight Linear``), take free bits (``--objective FreeBits``), or fewer layers. With L
    layers of kernels k x k a pixel sees the k // 2 * L rows above it, to the same distance on both
    sides: z must carry what is farther away (Chen et al. 2017, arXiv 1611.02731). Plain masks have
    a blind spot to the upper right, which costs the model a little and the density nothing.

    E[x | z] has no closed form: pictures show a draw in its place.

    Sources: van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv 1601.06759 (PixelCNN); Gulrajani
    et al. 2017, arXiv 1611.05013 (PixelVAE).

    Args:
        event_shape: shape (C, H, W) of an image, or (H, W), read as one channel.
        likelihood: of the pixels, given their parameters; elements must be independent.
        features: channels that the decoder puts out.
        channels: of the masked convolutions.
        layers: masked convolutions; the first sees the pixels before its own alone.
        kernel_size: height and width of the kernels, odd and at least 3.

    Raises:
        ValueError: the event is not an image, the likelihood does not factorise, or a number is out
            of range.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        likelihood: Callable[[tuple[int, ...]], Likelihood] = Bernoulli,
        features: int = 8,
        channels: int = 32,
        layers: int = 3,
        kernel_size: int = 5,
    ) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) not in (2, 3):
            raise ValueError(
                f"Expected images, event_shape (C, H, W) or (H, W); got {self.event_shape}. "
                "Take another likelihood, or give the data the shape of images."
            )
        for name, value in (("features", features), ("channels", channels), ("layers", layers)):
            if value < 1:
                raise ValueError(f"Expected {name} of at least 1; got {value}.")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                f"Expected an odd kernel_size of at least 3, such as 5; got {kernel_size}."
            )
        self.pixels = likelihood(self.event_shape)
        _refuse_dependent(self.pixels)
        *depth, height, width = self.event_shape
        self.image_shape = (math.prod(depth), height, width)
        self.parameter_dim = math.prod(self.pixels.parameter_shape[:-2])
        self.features = features
        self.reach = layers * (kernel_size // 2)
        self.past = _MaskedConv2d(self.image_shape[0], channels, kernel_size, sees_itself=False)
        self.context = nn.Conv2d(features, channels, 1, bias=False)
        self.blocks = nn.Sequential(*(_Block(channels, kernel_size) for _ in range(layers - 1)))
        self.out = nn.Conv2d(channels, self.parameter_dim, 1)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Features of each pixel."""
        return (self.features, *self.event_shape[-2:])

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the distribution over images for features (..., features, H, W)."""
        return _Autoregressive(self, parameters)

    def pixel_parameters(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the parameters of each pixel, given those before it.

        Args:
            x: images (..., C, H, W), or a part of them.
            features: of their pixels, (..., features, H, W); leading dimensions broadcast.

        Returns:
            Parameters (..., P, H, W), P of them for each pixel, its channels' all together.
        """
        batch = torch.broadcast_shapes(x.shape[:-3], features.shape[:-3])
        # Before the two are added, so that K particles share the part that depends on x.
        past, context = _over_images(self.past, x), _over_images(self.context, features)
        h = (past + context).expand(*batch, *past.shape[-3:])
        return _over_images(self._head, h)

    def _head(self, h: Tensor) -> Tensor:
        return self.out(F.elu(self.blocks(h)))


class _Autoregressive(TorchDistribution):
    """Over images, given the features of their pixels (..., features, H, W)."""

    arg_constraints: Any = {"features": constraints.independent(constraints.real, 3)}  # type: ignore[misc]  # noqa: RUF012

    def __init__(
        self, likelihood: Autoregressive, features: Tensor, validate_args: bool | None = None
    ) -> None:
        self.likelihood, self.features = likelihood, features
        shape = torch.Size(likelihood.event_shape)
        super().__init__(features.shape[:-3], shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        pixels = self.likelihood.pixels
        return pixels(self.features.new_zeros(pixels.parameter_shape)).support

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "_Autoregressive":
        new: Any = self._get_checked_instance(_Autoregressive, _instance)
        new.likelihood = self.likelihood
        new.features = self.features.expand(*batch_shape, *self.features.shape[-3:])
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args  # noqa: SLF001
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Sum the log densities of the pixels, each given those before it."""
        if self._validate_args:
            self._validate_sample(value)
        own = self.likelihood
        batch = value.shape[: value.dim() - len(self.event_shape)]
        parameters = own.pixel_parameters(value.reshape(*batch, *own.image_shape), self.features)
        shape = (*parameters.shape[:-3], *own.pixels.parameter_shape)
        return own.pixels(parameters.reshape(shape)).log_prob(value)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw pixel after pixel, each time looking no farther than the convolutions reach."""
        own = self.likelihood
        channels, height, width = own.image_shape
        shape = self._extended_shape(sample_shape)
        batch = shape[: len(shape) - len(self.event_shape)]
        wanted = own.pixels.parameter_shape
        with torch.no_grad():
            features = self.features.expand(*batch, *self.features.shape[-3:])
            x = features.new_zeros(*batch, channels, height, width)
            for i in range(height):
                top = max(0, i - own.reach)
                for j in range(width):
                    left = max(0, j - own.reach)
                    near = (..., slice(top, i + 1), slice(left, j + own.reach + 1))
                    parameters = own.pixel_parameters(x[near], features[near])
                    pixel = parameters[..., i - top, j - left].reshape(*batch, *wanted[:-2], 1, 1)
                    # The likelihood takes only whole images, and may treat places differently.
                    drawn = own.pixels(pixel.expand(*batch, *wanted)).sample()
                    x[..., i, j] = drawn.reshape(x.shape)[..., i, j]
            return x.reshape(shape)


class _MaskedConv2d(nn.Conv2d):
    """A convolution that sees the pixels before its own in raster order, and optionally its own."""

    mask: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, sees_itself: bool
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        places = torch.arange(kernel_size**2).reshape(kernel_size, kernel_size)
        mask = places < kernel_size**2 // 2 + sees_itself
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class _Block(nn.Module):
    """A masked convolution and one over channels, added to what comes in."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        half = (channels + 1) // 2  # as narrow within as in the paper
        self.masked = _MaskedConv2d(channels, half, kernel_size, sees_itself=True)
        self.mix = nn.Conv2d(half, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.mix(F.elu(self.masked(F.elu(h))))


def _over_images(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a network of (B, C, H, W) to images with any number of leading dimensions."""
    out = network(images.reshape(-1, *images.shape[-3:]))
    return out.reshape(*images.shape[:-3], *out.shape[-3:])


def _refuse_dependent(likelihood: Likelihood) -> None:
    """Check that a likelihood is a product over the elements of an image."""
    shape, event = likelihood.parameter_shape, likelihood.event_shape
    p_x: Any = likelihood(torch.zeros(shape))
    base: Distribution | None = p_x.base_dist if isinstance(p_x, Independent) else None
    if base is None or tuple(base.batch_shape) != event or shape[-2:] != event[-2:]:
        raise ValueError(
            "Expected a likelihood of independent elements, whose parameter_shape ends in that of "
            f"the image; got {type(likelihood).__name__}. Take Bernoulli, Binomial, Categorical or "
            "DiscretisedLogistic, say."
        )
