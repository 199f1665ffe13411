"""Flows of z plus a bump: planar, radial and Sylvester."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .flows import Bijection, Flow


class Planar(Flow):
    r"""Bumps along planes: :math:`z' = z + u \tanh(w^\top z + b)`.

    u is moved so that :math:`w^\top u > -1`, which makes the map invertible.

    Source: Rezende and Mohamed 2015, arXiv 1505.05770, equations 10 to 12 and appendix A.1.
    """

    @property
    def step_dim(self) -> int:
        """The vectors u and w, and b."""
        return 2 * self.latent_dim + 1

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one bump."""
        u, w, b = parameters.split([self.latent_dim, self.latent_dim, 1], -1)
        b = b.squeeze(-1)
        along = (u * w).sum(-1, keepdim=True)
        slope = softplus(along + math.log(math.e - 1)) - 1  # above -1, and 0 at 0
        u = u + (slope - along) * w / w.square().sum(-1, keepdim=True).clamp_min(1e-12)
        slope = slope.squeeze(-1)

        def forward(z: Tensor) -> tuple[Tensor, Tensor]:
            h = ((z * w).sum(-1) + b).tanh()
            return z + u * h.unsqueeze(-1), (slope * (1 - h.square())).log1p()

        def backward(z: Tensor) -> Tensor:
            before = _solve((z * w).sum(-1), slope, torch.ones_like(slope), b)
            return z - u * (before + b).tanh().unsqueeze(-1)

        return Bijection(forward, backward)


class Radial(Flow):
    r"""Bumps about points: :math:`z' = z + \beta (z - c) / (\alpha + |z - c|)`.

    :math:`\alpha > 0` and :math:`\beta > -\alpha` make it invertible, in closed form. The centre c
    is counted in the base's standard deviations.

    Source: Rezende and Mohamed 2015, arXiv 1505.05770, equation 14 and appendix A.2.
    """

    @property
    def step_dim(self) -> int:
        """The centre, and what makes alpha and beta."""
        return self.latent_dim + 2

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one bump."""
        offset, width, height = parameters.split([self.latent_dim, 1, 1], -1)
        centre, alpha = scale * offset, softplus(width)
        beta = softplus(height + math.log(math.e - 1)) * alpha - alpha  # 0 at 0

        def radius(z: Tensor) -> Tensor:
            tiny = torch.finfo(z.dtype).tiny  # a norm has no gradient at 0
            return ((z - centre).square().sum(-1, keepdim=True) + tiny).sqrt()

        def forward(z: Tensor) -> tuple[Tensor, Tensor]:
            r = radius(z)
            stretch = beta / (alpha + r)
            log_det = (self.latent_dim - 1) * stretch.log1p() + (
                stretch * alpha / (alpha + r)
            ).log1p()
            return z + stretch * (z - centre), log_det.squeeze(-1)

        def backward(z: Tensor) -> Tensor:
            # R = r (1 + beta / (alpha + r)), so r^2 + (alpha + beta - R) r = alpha R.
            after = radius(z)
            half = (alpha + beta - after) / 2
            root = (half.square() + alpha * after).sqrt()
            r = torch.where(half > 0, alpha * after / (half.abs() + root), root - half)
            return centre + (z - centre) / (1 + beta / (alpha + r))

        return Bijection(forward, backward)


class Sylvester(Flow):
    r"""Several planes at once: :math:`z' = z + Q R \tanh(\tilde R Q^\top z + b)`.

    Q (Z, rank) has orthonormal columns, made of Householder reflections; R and
    :math:`\tilde R` are triangular with diagonals within (-1, 1), so that the determinant is
    :math:`\prod_i (1 + R_{ii} \tilde R_{ii} \tanh'_i)`.

    Source: van den Berg, Hasenclever, Tomczak and Welling 2018, arXiv 1803.05649.

    Args:
        latent_dim: number Z of latent coordinates.
        steps: number of maps.
        rank: columns of Q, the number of planes; at most Z are used.
        amortised: whether each datum has its own maps, or all share them.
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, rank: int = 8, amortised: bool = True
    ) -> None:
        if rank < 1:
            raise ValueError(f"Expected a rank of at least 1; got {rank}.")
        self.rank = min(rank, latent_dim)
        super().__init__(latent_dim, steps, amortised)

    @property
    def step_dim(self) -> int:
        """The reflections, two triangles, and b."""
        return self.rank * (self.latent_dim + self.rank + 2)

    def step(self, index: int, parameters: Tensor, scale: Tensor) -> Bijection:  # noqa: ARG002
        """Return one map."""
        size, rank = self.latent_dim, self.rank
        normals, square, corner, b = parameters.split([size * rank, rank * rank, rank, rank], -1)
        q = _orthonormal(normals.unflatten(-1, (rank, size)), index)
        # One square holds both triangles above their diagonals, the second one transposed.
        square = square.unflatten(-1, (rank, rank))
        diagonal, other = square.diagonal(dim1=-2, dim2=-1).tanh(), corner.tanh()
        r = square.triu(1) + diagonal.diag_embed()
        r_tilde = square.mT.triu(1) + other.diag_embed()

        def planes(z: Tensor) -> Tensor:
            return (z.unsqueeze(-1) * q).sum(-2)

        def times(matrix: Tensor, v: Tensor) -> Tensor:
            return (matrix * v.unsqueeze(-2)).sum(-1)

        def forward(z: Tensor) -> tuple[Tensor, Tensor]:
            h = (times(r_tilde, planes(z)) + b).tanh()
            log_det = (diagonal * other * (1 - h.square())).log1p().sum(-1)
            return z + times(q, times(r, h)), log_det

        def backward(z: Tensor) -> Tensor:
            # From the last row up, each has one unknown.
            after = planes(z)
            w: list[Tensor] = []
            h: list[Tensor] = []
            for i in reversed(range(rank)):
                target, shift = after[..., i], b[..., i]
                for j, (w_j, h_j) in enumerate(zip(w, h, strict=True), i + 1):
                    target = target - r[..., i, j] * h_j
                    shift = shift + r_tilde[..., i, j] * w_j
                w.insert(0, _solve(target, diagonal[..., i], other[..., i], shift))
                h.insert(0, (other[..., i] * w[0] + shift).tanh())
            return z - times(q, times(r, torch.stack(h, -1)))

        return Bijection(forward, backward)


def _orthonormal(normals: Tensor, first: int) -> Tensor:
    """Return Q (..., Z, rank): the identity's columns, reflected along normals (..., rank, Z)."""
    rank, size = normals.shape[-2:]
    # Each step starts from other columns, so that all coordinates have their turn.
    columns = (torch.arange(rank, device=normals.device) + first * rank) % size
    q = torch.eye(size, dtype=normals.dtype, device=normals.device)[:, columns]
    q = q.expand(*normals.shape[:-2], size, rank)
    norm = normals.square().sum(-1, keepdim=True)
    for v, n in zip(normals.unbind(-2), norm.unbind(-2), strict=True):
        along = (v.unsqueeze(-1) * q).sum(-2, keepdim=True)
        q = q - 2 * v.unsqueeze(-1) * along / n.unsqueeze(-1).clamp_min(1e-12)
    return q


def _solve(target: Tensor, r: Tensor, s: Tensor, shift: Tensor) -> Tensor:
    """Return the w of w + r tanh(s w + shift) = target, where r s > -1.

    The left side rises with w and is within |r| of it: bisection to the last bit, then one step of
    Newton's, which also carries the gradient.
    """
    with torch.no_grad():
        halvings = 4 - round(math.log2(torch.finfo(target.dtype).eps))
        low, high = target - r.abs(), target + r.abs()
        for _ in range(halvings):
            w = (low + high) / 2
            above = w + r * (s * w + shift).tanh() > target
            low, high = torch.where(above, low, w), torch.where(above, w, high)
        w = (low + high) / 2
        rise = 1 + r * s * (1 - (s * w + shift).tanh().square())
    return w - (w + r * (s * w + shift).tanh() - target) / rise
