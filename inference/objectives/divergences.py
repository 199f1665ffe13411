"""Divergences of two multivariate normals in closed form: diagonal, low-rank or full covariance."""

from typing import Any

import torch
from torch import Tensor
from torch import distributions as dist
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    r"""Return the Kullback-Leibler divergence of q from p, in nats.

    .. math:: \mathrm{KL}(p \| q) = \tfrac12 \left[ (\mu_p - \mu_q)' S_q^{-1} (\mu_p - \mu_q)
              - \log |S_q^{-1} S_p| + \mathrm{tr}(S_q^{-1} S_p) - n \right]

    It is torch's own where both are diagonal, and where neither is; of a mixed pair the diagonal
    one is rewritten as the other's kind, exactly. Low-rank and diagonal together cost O(n r^2).

    Source: Su 2021, the article on two normal distributions (kexue.fm 8512).

    Args:
        p: normal over n dimensions, ``Independent(Normal, 1)``, ``LowRankMultivariateNormal`` or
            ``MultivariateNormal``; torch's or Pyro's.
        q: the same, of any of the three kinds.

    Returns:
        The divergence, of the shape to which the two batch shapes broadcast.

    Raises:
        TypeError: a distribution is of another family.
        ValueError: their numbers of dimensions differ.
    """
    return dist.kl_divergence(*_alike(*_pair(p, q)))


def bhattacharyya_distance(p: Distribution, q: Distribution) -> Tensor:
    r"""Return the Bhattacharyya distance of p and q, in nats; it is symmetric.

    .. math:: \mathrm{BD}(p, q) = -\log \int \sqrt{p(x) q(x)} \, dx
              = \tfrac12 \log \frac{|S|}{\sqrt{|S_p| |S_q|}}
              + \tfrac18 (\mu_p - \mu_q)' S^{-1} (\mu_p - \mu_q), \qquad S = (S_p + S_q) / 2

    Jensen's inequality gives KL(p || q) >= 2 BD(p, q), and KL(q || p) as well.

    Source: Su 2021, the article on two normal distributions (kexue.fm 8512).

    Args:
        p: normal over n dimensions, ``Independent(Normal, 1)``, ``LowRankMultivariateNormal`` or
            ``MultivariateNormal``; torch's or Pyro's.
        q: the same, of any of the three kinds.

    Returns:
        The distance, of the shape to which the two batch shapes broadcast.

    Raises:
        TypeError: a distribution is of another family.
        ValueError: their numbers of dimensions differ.
    """
    p, q = _alike(*_pair(p, q))
    middle = _middle(p, q)
    # An entropy is 1/2 log|S| and a constant that cancels.
    spread = middle.entropy() - (p.entropy() + q.entropy()) / 2
    difference = p.mean - q.mean
    quadratic = 2 * (middle.log_prob(torch.zeros_like(difference)) - middle.log_prob(difference))
    return spread + quadratic / 8


def wasserstein2(p: Distribution, q: Distribution) -> Tensor:
    r"""Return the **squared** 2-Wasserstein distance of p and q, in squared units of x.

    .. math:: W_2^2(p, q) = \min_{x \sim p,\; y \sim q} \mathbb E \|x - y\|^2
              = \|\mu_p - \mu_q\|^2 + \mathrm{tr} S_p + \mathrm{tr} S_q
              - 2 \, \mathrm{tr} (S_p^{1/2} S_q S_p^{1/2})^{1/2}

    Two diagonal ones give :math:`\|\mu_p - \mu_q\|^2 + \|\sigma_p - \sigma_q\|^2`. Otherwise, with
    Cholesky factors :math:`S = L L'`, the last trace is the sum of the singular values of
    :math:`L_p' L_q`, whose squares are the eigenvalues of :math:`S_p S_q`: no root of a small
    eigenvalue is taken, and its gradient needs no gap between them. It costs O(n^3). Rounding is
    that of the traces, so that equal distributions come out as 0 up to 1e-15 of them in float64.

    Source: Su 2021, the article on two normal distributions (kexue.fm 8512); Dowson and Landau
    1982.

    Args:
        p: normal over n dimensions, ``Independent(Normal, 1)``, ``LowRankMultivariateNormal`` or
            ``MultivariateNormal``; torch's or Pyro's.
        q: the same, of any of the three kinds.

    Returns:
        The squared distance, never below 0, of the shape to which the two batch shapes broadcast;
        differentiable.

    Raises:
        TypeError: a distribution is of another family.
        ValueError: their numbers of dimensions differ.
    """
    p, q = _pair(p, q)
    means = (p.mean - q.mean).square().sum(-1)
    if isinstance(p, Independent) and isinstance(q, Independent):
        return means + (p.stddev - q.stddev).square().sum(-1)
    overlap = torch.linalg.matrix_norm(_cholesky(p).mT @ _cholesky(q), ord="nuc")
    covariances = p.variance.sum(-1) + q.variance.sum(-1) - 2 * overlap
    return means + covariances.clamp(min=0)


def aggregate_normal(q: Distribution) -> dist.MultivariateNormal:
    r"""Return the normal with mean and covariance of the mixture of a batch of normals.

    .. math:: \bar\mu = \frac1B \sum_n \mu_n, \qquad \bar S = \frac1B \sum_n S_n
              + (\mu_n - \bar\mu)(\mu_n - \bar\mu)'

    With q(z | x_n) for q it is the moments of the aggregate posterior.

    Args:
        q: B normals over n dimensions, of any of the three kinds, batch_shape (B,).

    Raises:
        TypeError: a distribution is of another family.
    """
    _check_normal(q)
    covariances = _covariance(q)
    deviations = q.mean - q.mean.mean(0)
    spread = deviations.T @ deviations / len(deviations)
    return dist.MultivariateNormal(q.mean.mean(0), covariances.mean(0) + spread)


def _pair(p: Distribution, q: Distribution) -> tuple[Any, Any]:
    """Check the two distributions and expand them to one batch shape."""
    for each in (p, q):
        _check_normal(each)
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"Expected two normals over as many dimensions; got {tuple(p.event_shape)} and "
            f"{tuple(q.event_shape)}. Compare the same latent site of two programs."
        )
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    return p.expand(shape), q.expand(shape)


def _check_normal(p: Distribution) -> None:
    if isinstance(p, Independent):
        known = isinstance(p.base_dist, dist.Normal) and p.reinterpreted_batch_ndims == 1
    else:
        known = isinstance(p, dist.MultivariateNormal | LowRankMultivariateNormal)
    if not known:
        raise TypeError(
            f"Expected a multivariate normal: Independent(Normal, 1), LowRankMultivariateNormal or "
            f"MultivariateNormal; got {p}. Declare the coordinates of Normal as one event with "
            ".to_event(1), or estimate the divergence from draws."
        )


def _alike(p: Any, q: Any) -> tuple[Any, Any]:
    """Rewrite a diagonal normal as the other one's kind; torch knows full against low-rank."""
    if isinstance(p, Independent) and not isinstance(q, Independent):
        return _as_kind(p, q), q
    if isinstance(q, Independent) and not isinstance(p, Independent):
        return p, _as_kind(q, p)
    return p, q


def _as_kind(diagonal: Any, other: Any) -> Any:
    if isinstance(other, LowRankMultivariateNormal):
        no_factor = torch.zeros_like(diagonal.mean).unsqueeze(-1)
        return LowRankMultivariateNormal(diagonal.mean, no_factor, diagonal.variance)
    return dist.MultivariateNormal(diagonal.mean, scale_tril=_cholesky(diagonal))


def _middle(p: Any, q: Any) -> Any:
    """Return N(0, (S_p + S_q) / 2), as cheap a kind as the two allow."""
    zero = torch.zeros_like(p.mean)
    if isinstance(p, Independent):
        scale = ((p.variance + q.variance) / 2).sqrt()
        return Independent(dist.Normal(zero, scale), 1)
    if isinstance(p, LowRankMultivariateNormal) and isinstance(q, LowRankMultivariateNormal):
        factor = torch.cat([p.cov_factor, q.cov_factor], -1) / 2**0.5
        return LowRankMultivariateNormal(zero, factor, (p.cov_diag + q.cov_diag) / 2)
    return dist.MultivariateNormal(zero, (p.covariance_matrix + q.covariance_matrix) / 2)


def _covariance(p: Any) -> Tensor:
    return torch.diag_embed(p.variance) if isinstance(p, Independent) else p.covariance_matrix


def _cholesky(p: Any) -> Tensor:
    """Return L (*batch, n, n) with covariance L L'."""
    return torch.diag_embed(p.stddev) if isinstance(p, Independent) else p.scale_tril
