"""Decoders to images: transposed convolutions, plain or with residual blocks."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .networks import Decoder


class Convolutional(Decoder):
    r"""A dense layer, then transposed convolutions with ReLU between them, to images of any size.

    Each doubles height and width, to the odd or even sizes that the image has when it is halved
    again and again, rounded up: 7 x 5, 14 x 10, 28 x 20. All dimensions of the parameters but the
    last two, height and width, are channels that it puts out: those of the image, and however many
    numbers the likelihood takes for an element.

    Source: Radford, Metz and Chintala 2016, arXiv 1511.06434.

    Args:
        latent_dim: number Z of latent coordinates.
        parameter_shape: shape (..., H, W) of the likelihood's parameters for one image.
        channels: that each transposed convolution takes in, from z on; each doubles height
            and width.
        kernel_size: height and width of the kernels, odd and at least 3.

    Raises:
        ValueError: the parameters are not those of images, or a number is out of range.
    """

    def __init__(
        self,
        latent_dim: int,
        parameter_shape: tuple[int, ...],
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        self.parameter_shape = tuple(parameter_shape)
        if len(self.parameter_shape) < 2:
            raise ValueError(
                "Expected the parameters of images, parameter_shape (..., H, W); got "
                f"{self.parameter_shape}. Take an MLP, or give the data the shape of images."
            )
        if not channels or min(channels) < 1:
            raise ValueError(
                f"Expected the channels of at least one convolution; got {list(channels)}. "
                "Without any, take an MLP."
            )
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                f"Expected an odd kernel_size of at least 3, such as 5; got {kernel_size}."
            )
        *depth, height, width = self.parameter_shape
        sizes = [(height, width)]
        for _ in channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        self.start = (channels[0], *sizes[-1])
        self.dense = nn.Linear(latent_dim, math.prod(self.start))
        half = kernel_size // 2
        self.stages = nn.Sequential()
        widths = pairwise((*channels, math.prod(depth)))
        for (a, b), size in zip(widths, reversed(sizes[:-1]), strict=True):
            # From n to 2n - 1, and one more where the size is even.
            more = (1 - size[0] % 2, 1 - size[1] % 2)
            up = nn.ConvTranspose2d(a, b, kernel_size, 2, half, output_padding=more)
            self.stages.append(nn.Sequential(nn.ReLU(), up))

    def forward(self, z: Tensor) -> Tensor:
        """Map z (..., Z) to parameters (..., *parameter_shape)."""
        h = self.dense(z).reshape(-1, *self.start)
        return self.stages(h).reshape(*z.shape[:-1], *self.parameter_shape)


class ResidualConvolutional(Convolutional):
    r"""A `Convolutional` decoder with residual blocks, :math:`h + f(h)`, at each size of the image.

    A block is ReLU, convolution, ReLU, convolution (pre-activation), the last of them zero at the
    start: every block begins as the identity, so depth costs nothing and the network needs no
    normalisation. Batch normalisation makes the ELBO of a datum depend on its batch.

    Sources: He et al. 2016, arXiv 1603.05027 (the block); Zhang, Dauphin and Ma 2019, arXiv
    1901.09321 (the start, in the place of normalisation).

    Args:
        latent_dim: number Z of latent coordinates.
        parameter_shape: shape (..., H, W) of the likelihood's parameters for one image.
        channels: that each transposed convolution takes in, from z on, and of the blocks
            before it.
        kernel_size: height and width of the kernels, odd and at least 3.
        blocks: residual blocks before each transposed convolution.

    Raises:
        ValueError: the parameters are not those of images, or a number is out of range.
    """

    def __init__(
        self,
        latent_dim: int,
        parameter_shape: tuple[int, ...],
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 3,
        blocks: int = 2,
    ) -> None:
        super().__init__(latent_dim, parameter_shape, channels, kernel_size)
        if blocks < 1:
            raise ValueError(
                f"Expected at least 1 residual block; got blocks={blocks}. "
                "Without any, take Convolutional."
            )
        for stage, width in zip(self.stages, channels, strict=True):
            for _ in range(blocks):
                stage.insert(0, _ResidualBlock(width, kernel_size))  # type: ignore[operator]


class _ResidualBlock(nn.Module):
    """From h (B, C, H, W) to h + f(h) of the same shape; the identity at the start."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        half = kernel_size // 2
        last = nn.Conv2d(channels, channels, kernel_size, padding=half)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        first = nn.Conv2d(channels, channels, kernel_size, padding=half)
        self.branch = nn.Sequential(nn.ReLU(), first, nn.ReLU(), last)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)
