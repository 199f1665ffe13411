"""Divergences of normals: closed forms, draws, three kinds of one covariance, gradients.

Monte Carlo assertions are |z| < 4, wrong once in 16,000 a number; the seeds are fixed.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference.objectives import bhattacharyya_distance, kl_divergence, wasserstein2

N, RANK, BATCH = 4, 2, 3
DIVERGENCES = {"kl": kl_divergence, "bd": bhattacharyya_distance, "w2": wasserstein2}


def diagonal(shape: tuple[int, ...] = (BATCH,)) -> Any:
    loc, scale = torch.randn(*shape, N).double(), torch.rand(*shape, N).double() + 0.3
    return dist.Normal(loc, scale).to_event(1)


def low_rank(shape: tuple[int, ...] = (BATCH,)) -> Any:
    factor = torch.randn(*shape, N, RANK).double()
    return dist.LowRankMultivariateNormal(
        torch.randn(*shape, N).double(), factor, torch.rand(*shape, N).double() + 0.3
    )


def full(shape: tuple[int, ...] = (BATCH,)) -> Any:
    root = torch.randn(*shape, N, N).double()
    covariance = root @ root.mT + 0.3 * torch.eye(N).double()
    return dist.MultivariateNormal(torch.randn(*shape, N).double(), covariance)


KINDS: dict[str, Callable[..., Any]] = {"diagonal": diagonal, "low-rank": low_rank, "full": full}
mixed = pytest.mark.parametrize(("p_kind", "q_kind"), list(product(KINDS, KINDS)))


def covariance(p: Any) -> Tensor:
    return p.covariance_matrix if hasattr(p, "covariance_matrix") else torch.diag_embed(p.variance)


def trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def root(matrix: Tensor) -> Tensor:
    """The symmetric square root, by eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def formulas(p: Any, q: Any) -> dict[str, Tensor]:
    """The closed forms with inverses, determinants and square roots of whole matrices."""
    sp, sq = covariance(p), covariance(q)
    d = (p.mean - q.mean).unsqueeze(-1)
    middle = (sp + sq) / 2
    ratio = torch.linalg.inv(sq) @ sp
    squared = (d.mT @ torch.linalg.inv(sq) @ d).squeeze(-1, -2)
    half = root(sp)
    cross = root(half @ sq @ half)
    return {
        "kl": 0.5 * (squared - torch.logdet(ratio) + trace(ratio) - N),
        "bd": 0.5 * (torch.logdet(middle) - 0.5 * torch.logdet(sp) - 0.5 * torch.logdet(sq))
        + (d.mT @ torch.linalg.inv(middle) @ d).squeeze(-1, -2) / 8,
        "w2": d.square().sum((-1, -2)) + trace(sp) + trace(sq) - 2 * trace(cross),
    }


@mixed
@pytest.mark.parametrize("name", DIVERGENCES)
def test_closed_form(p_kind: str, q_kind: str, name: str) -> None:
    p, q = KINDS[p_kind](), KINDS[q_kind]()
    expected = formulas(p, q)[name]
    torch.testing.assert_close(DIVERGENCES[name](p, q), expected, rtol=1e-10, atol=1e-10)


@mixed
def test_draws(p_kind: str, q_kind: str) -> None:
    """KL = E_p log p/q; exp -BD = E_p sqrt(q/p), with draws of p, |z| < 4."""
    p, q = KINDS[p_kind](), KINDS[q_kind]()
    x = p.sample((100_000,))
    log_ratio = p.log_prob(x) - q.log_prob(x)
    assert within_four(log_ratio, kl_divergence(p, q))
    # sqrt(q/p) has a second moment of 1 under p, whatever the two are.
    assert within_four((-log_ratio / 2).exp(), (-bhattacharyya_distance(p, q)).exp())


@mixed
def test_wasserstein_is_the_cost_of_the_optimal_linear_map(p_kind: str, q_kind: str) -> None:
    """y = mu_q + T (x - mu_p), T = Sp^-1/2 (Sp^1/2 Sq Sp^1/2)^1/2 Sp^-1/2, takes p to q.

    The cost E|x - y|^2 is exact from the moments, and by draws with |z| < 4.
    """
    p, q = KINDS[p_kind](), KINDS[q_kind]()
    half = root(covariance(p))
    inverse = torch.linalg.inv(half)
    move = inverse @ root(half @ covariance(q) @ half) @ inverse
    torch.testing.assert_close(move @ covariance(p) @ move.mT, covariance(q))
    stay = torch.eye(N).double() - move
    exact = (p.mean - q.mean).square().sum(-1) + trace(stay @ covariance(p) @ stay.mT)
    torch.testing.assert_close(wasserstein2(p, q), exact, rtol=0, atol=1e-6)
    x = p.sample((100_000,))
    y = q.mean + ((x - p.mean).unsqueeze(-2) @ move.mT).squeeze(-2)
    assert within_four((x - y).square().sum(-1), wasserstein2(p, q))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_three_kinds_of_one_covariance_agree(name: str) -> None:
    """A diagonal normal written in all three ways, against each kind, from either side."""
    one = diagonal()
    ways = [
        one,
        dist.LowRankMultivariateNormal(one.mean, torch.zeros(BATCH, N, 2).double(), one.variance),
        dist.MultivariateNormal(one.mean, torch.diag_embed(one.variance)),
    ]
    low = low_rank()
    others = [diagonal(), low, dist.MultivariateNormal(low.mean, low.covariance_matrix), full()]
    divergence = DIVERGENCES[name]
    for other in others:
        for way in ways[1:]:
            torch.testing.assert_close(divergence(way, other), divergence(one, other))
            torch.testing.assert_close(divergence(other, way), divergence(other, one))
    for left, right in product(ways, ways):
        assert divergence(left, right).abs().max() < 1e-6
    torch.testing.assert_close(divergence(others[1], full_ := full()), divergence(others[2], full_))


@mixed
def test_kl_is_twice_the_bhattacharyya_distance_or_more(p_kind: str, q_kind: str) -> None:
    p, q = KINDS[p_kind](), KINDS[q_kind]()
    distance = bhattacharyya_distance(p, q)
    assert (distance >= 0).all()
    assert (kl_divergence(p, q) >= 2 * distance).all()
    assert (kl_divergence(q, p) >= 2 * distance).all()
    torch.testing.assert_close(distance, bhattacharyya_distance(q, p))


@mixed
@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(p_kind: str, q_kind: str, name: str) -> None:
    p_leaves, q_leaves = leaves(p_kind), leaves(q_kind)

    def value(*tensors: Tensor) -> Tensor:
        p = build(p_kind, tensors[: len(p_leaves)])
        return DIVERGENCES[name](p, build(q_kind, tensors[len(p_leaves) :]))

    assert torch.autograd.gradcheck(value, (*p_leaves, *q_leaves), fast_mode=True)


@mixed
@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_finite_where_the_two_are_equal(p_kind: str, q_kind: str, name: str) -> None:
    """All eigenvalues are equal there as well, where those of an eigen-decomposition blow up."""
    tensors = [leaf.requires_grad_() for kind in (p_kind, q_kind) for leaf in standard(kind)]
    count = len(standard(p_kind))
    divergence = DIVERGENCES[name](build(p_kind, tensors[:count]), build(q_kind, tensors[count:]))
    assert abs(divergence.item()) < 1e-6
    for gradient in torch.autograd.grad(divergence, tensors):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e-6  # the minimum


@mixed
@pytest.mark.parametrize("name", DIVERGENCES)
def test_batches_broadcast(p_kind: str, q_kind: str, name: str) -> None:
    p, q = KINDS[p_kind]((2, 1)), KINDS[q_kind]((BATCH,))
    together = DIVERGENCES[name](p, q)
    assert together.shape == (2, BATCH)
    torch.testing.assert_close(together, formulas(p.expand((2, BATCH)), q.expand((2, BATCH)))[name])
    assert DIVERGENCES[name](KINDS[p_kind](()), KINDS[q_kind](())).shape == ()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_torchs_own_distributions_will_do(name: str) -> None:
    p = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(N), 1.0), 1)
    q = torch.distributions.MultivariateNormal(torch.zeros(N), 2 * torch.eye(N))
    expected = formulas(dist.MultivariateNormal(torch.zeros(N), torch.eye(N)), q)[name]
    torch.testing.assert_close(DIVERGENCES[name](p, q), expected)


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
def test_other_families_are_refused(divergence: Callable[..., Tensor]) -> None:
    normal = diagonal()
    for other in (
        dist.Normal(torch.zeros(N), 1.0),
        dist.Laplace(torch.zeros(N), 1.0).to_event(1),
        dist.Normal(torch.zeros(2, N), 1.0).to_event(2),
    ):
        for pair in ((normal, other), (other, normal)):
            with pytest.raises(TypeError, match=r"Independent\(Normal, 1\).*to_event\(1\)"):
                divergence(*pair)
    with pytest.raises(ValueError, match=r"as many dimensions; got \(4,\) and \(5,\)"):
        divergence(normal, dist.Normal(torch.zeros(5), 1.0).to_event(1))


def within_four(draws: Tensor, expected: Tensor) -> bool:
    error = draws.std(0) / len(draws) ** 0.5
    return bool((((draws.mean(0) - expected) / error).abs() < 4).all())


def leaves(kind: str) -> list[Tensor]:
    """The free parameters of one normal of this kind."""
    shapes = {"diagonal": [(N,), (N,)], "low-rank": [(N,), (N, RANK), (N,)], "full": [(N,), (N, N)]}
    return [torch.randn(*shape).double().requires_grad_() for shape in shapes[kind]]


def standard(kind: str) -> list[Tensor]:
    """Those of N(0, I)."""
    zero = torch.zeros(N).double()
    if kind == "low-rank":
        return [zero, torch.zeros(N, RANK).double(), zero.clone()]
    return [zero, zero.clone() if kind == "diagonal" else torch.zeros(N, N).double()]


def build(kind: str, tensors: Any) -> Any:
    loc, *rest = tensors
    if kind == "diagonal":
        return dist.Normal(loc, rest[0].exp()).to_event(1)
    if kind == "low-rank":
        return dist.LowRankMultivariateNormal(loc, rest[0], rest[1].exp())
    tril = torch.tril(rest[0], -1) + torch.diag_embed(rest[0].diagonal().exp())
    return dist.MultivariateNormal(loc, scale_tril=tril)
