"""Sigmoid belief networks of one and two layers against the sum over all their bits.

z-tests of 20,000 draws: |z| < 4 for each number, wrong once in 15,000 each; seeds are fixed.
"""

import itertools
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from inference import Elbo, Estimator, Iwae, Rebar, Relax, ScoreFunction, Vimco, log_weights
from inference.check import check
from inference.log_weights import read
from inference.programs import run_at
from scripts.pairs import sigmoid_belief

pytestmark = pytest.mark.usefixtures("in_doubles")

DRAWS, CHUNKS = 20_000, 100
NETS = [([4], []), ([4], [5]), ([3, 4], []), ([3, 4], [5])]


def net(
    sizes: list[int], hidden: list[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any, Tensor]:
    """Return the pair with other sizes, its parameters moved, and a datum (1, 1, 2, 3)."""
    pyro.set_rng_seed(4)
    monkeypatch.setattr(sigmoid_belief, "SIZES", sizes)
    monkeypatch.setattr(sigmoid_belief, "HIDDEN", hidden)
    model, guide = sigmoid_belief.pair((1, 2, 3))
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter += 0.5 * torch.randn_like(parameter)
    return model, guide, torch.tensor([1.0, 0, 1, 1, 0, 0]).reshape(1, 1, 2, 3)


def enumerated(model: Any, guide: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Return log p(x, z) - log q(z | x) and log q(z | x) of every z, (S,) each."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(sizes))))
    names = ["z"] if len(sizes) == 1 else [f"z_{level + 1}" for level in range(len(sizes))]
    values = dict(zip(names, states.split(sizes, -1), strict=True))
    count = len(states)
    weights = read(
        run_at(model, guide, (x.expand(count, *x.shape[1:]),), values), count, (1, count)
    )
    return weights.total[0], torch.stack([weights.guide[name][0] for name in names]).sum(0)


@pytest.mark.parametrize(("sizes", "hidden"), NETS)
def test_weights_are_those_of_enumeration(
    sizes: list[int], hidden: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """E log w is the ELBO, and E w is p(x)."""
    model, guide, x = net(sizes, hidden, monkeypatch)
    assert check(model, guide, x.expand(6, 1, 2, 3)) == []
    with torch.no_grad():
        log_w, log_q = enumerated(model, guide, x, sizes)
        assert log_q.exp().sum().item() == pytest.approx(1, abs=1e-12)
        drawn = log_weights(model, guide, x, DRAWS).total[:, 0]
        for exact, found in (
            ((log_q.exp() * log_w).sum(), drawn),
            ((log_q + log_w).exp().sum(), drawn.exp()),
        ):
            assert ((found.mean() - exact) / (found.std() / DRAWS**0.5)).abs() < 4


ESTIMATORS: list[tuple[list[int], Any, Estimator]] = [
    ([4], Elbo(2), Rebar()),
    ([4], Elbo(2), Relax()),
    ([3, 4], Elbo(2), ScoreFunction("leave one out")),
    ([3, 4], Iwae(2), Vimco()),
]


@pytest.mark.parametrize(("sizes", "bound", "estimator"), ESTIMATORS, ids=str)
def test_gradients_are_those_of_enumeration(
    sizes: list[int], bound: Any, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, x = net(sizes, [], monkeypatch)
    named = [*model.parameters(), *guide.parameters()]
    log_w, log_q = enumerated(model, guide, x, sizes)
    q = log_q.exp()
    pairs = torch.stack(torch.broadcast_tensors(log_w[:, None], log_w[None, :]))
    exact = (q[:, None] * q[None, :] * bound.reduce(pairs)).sum()
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(exact, named)])
    objective = type(bound)(2, estimator)
    batch, rows = x.expand(DRAWS // CHUNKS, *x.shape[1:]), []
    for _ in range(CHUNKS):
        loss = objective(model, guide, batch).loss
        rows.append(torch.cat([-g.flatten() for g in torch.autograd.grad(loss, named)]))
    found = torch.stack(rows)
    error = (found.std(0) / CHUNKS**0.5).clamp(min=1e-12)
    assert ((found.mean(0) - truth) / error).abs().max() < 4


def test_two_layers_are_refused_where_one_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide, x = net([3, 4], [], monkeypatch)
    with pytest.raises(ValueError, match="'z_1' and 'z_2': the second may depend on the first"):
        Elbo(2, Relax())(model, guide, x)
