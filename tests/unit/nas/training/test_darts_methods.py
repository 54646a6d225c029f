"""The parts of differentiable search, each on a problem whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nas.core.arch import Arch, Floats, Genes, every, sample
from nas.core.errors import InfeasibleBound
from nas.core.events import Traced, decode, encode
from nas.core.ports import ImageShape, RelaxedSpace, is_relaxed
from nas.core.relaxation import parameter_free_share, skip_share
from nas.training.gradient import operation_weights, perturbation, resource
from nas.training.gradient.collapse import signs_of_collapse
from nas.training.gradient.early_stopping import can_stop, scaled, stop_epoch
from nas.training.gradient.options import FOLLOWING, PLAIN, PRESETS, DartsParams
from nas.training.gradient.outer import first_order, second_order
from nas.training.gradient.perturbation import AccuracyAndLoss
from nas.training.gradient.pruning import Pressure, penalty, shares, survivors
from nas.training.gradient.rates import PUBLISHED_STEPS, SHORT_STEPS, published_rates, rates
from nas.training.gradient.sharpness import dominant_eigenvalue
from nas.training.gradient.teachers import distillation, vote
from search_spaces.darts_cell import space as darts_cell
from search_spaces.layers.entangled import centre, entangled_kernel
from search_spaces.nas_bench_201.cell import CONV3, NONE, SKIP
from search_spaces.nas_bench_201.space import NasBench201, build
from tests.support.fakes import TinySpace

SPACE: NasBench201 = build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
FULL = torch.ones(SPACE.relaxation.shape, dtype=torch.bool)


# Gradients of alphas: L_val = a w - 2 a + 1, L_train = w^2 - 2 a w + a^2 at (a, w) = (2, -2), by DARTS' figure 2


class Toy:
    def __init__(self) -> None:
        self.a = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor([-2.0], dtype=torch.float64))

    def val(self) -> torch.Tensor:
        return (self.a * self.w - 2 * self.a + 1).sum()

    def train(self) -> torch.Tensor:
        return (self.w**2 - 2 * self.a * self.w + self.a**2).sum()


def test_first_order_takes_the_weights_as_they_are() -> None:
    toy = Toy()
    assert float(first_order(toy.val, [toy.a])[0]) == -4.0


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("eta", "expected"), [(0.5, 2.0), (1.0, 8.0)])
def test_second_order_looks_one_step_ahead(eta: float, expected: float, exact: bool) -> None:
    toy = Toy()
    (gradient,) = second_order(toy.train, toy.val, [toy.w], [toy.a], lr=eta, exact=exact)
    assert float(gradient) == pytest.approx(expected, abs=1e-12 if exact else 1e-6)
    assert float(toy.w.detach()) == -2.0
    assert toy.w.grad is None
    assert toy.a.grad is None


def test_second_order_knows_momentum_and_decay() -> None:
    """w' = w - eta (mu m + dL/dw + lambda w), and no term of the second derivative has them."""
    toy = Toy()
    eta, mu, decay, m = 0.5, 0.9, 0.1, 3.0
    (gradient,) = second_order(
        toy.train,
        toy.val,
        [toy.w],
        [toy.a],
        lr=eta,
        momentum=mu,
        weight_decay=decay,
        moments=[torch.tensor([m], dtype=torch.float64)],
    )
    ahead = -2.0 - eta * (mu * m + (2 * -2.0 - 2 * 2.0) + decay * -2.0)
    assert float(gradient) == pytest.approx((ahead - 2.0) - eta * 2.0 * -2.0, abs=1e-6)


def test_the_exact_second_order_is_that_of_the_unrolled_step() -> None:
    """On a supernet: the gradient of the validation loss after one step of all weights, by autograd through it."""
    net = SPACE.supernet(0).double().train()
    names, weights = zip(*net.named_parameters(), strict=True)
    generator = torch.Generator().manual_seed(0)
    x, x_val = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64, generator=generator)
    y, y_val = torch.randint(10, (2, 6), generator=generator)
    alphas = torch.randn(6, 5, dtype=torch.float64, generator=generator).requires_grad_(True)

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(net.mix(images, alphas.softmax(1)), labels)

    (exact,) = second_order(lambda: loss(x, y), lambda: loss(x_val, y_val), weights, [alphas], lr=0.5, exact=True)
    gradients = torch.autograd.grad(loss(x, y), weights, create_graph=True, allow_unused=True)
    ahead = {n: w if g is None else w - 0.5 * g for n, w, g in zip(names, weights, gradients, strict=True)}

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net.mix(images, alphas.softmax(1))
            return out

    logits = torch.func.functional_call(Mix(), {f"net.{n}": w for n, w in ahead.items()}, (x_val,))
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y_val), alphas)
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("eta", "end"), [(0.5, 1.0), (0.0, 2.0)])
def test_descent_ends_where_it_should(eta: float, end: float) -> None:
    """The weights follow at once (w = a minimises the training loss); the second order then finds the true optimum of
    both levels, the first order does not."""
    toy = Toy()
    for _ in range(400):
        with torch.no_grad():
            toy.w.copy_(toy.a)
        (g,) = second_order(toy.train, toy.val, [toy.w], [toy.a], lr=eta) if eta else first_order(toy.val, [toy.a])
        with torch.no_grad():
            toy.a.sub_(0.05 * g)
    assert float(toy.a.detach()) == pytest.approx(end, abs=1e-3)


# Relaxations


def test_straight_through_is_one_hot_forward_and_soft_backward() -> None:
    values = torch.tensor([3.0, 5.0, 1.0])
    mask, noise = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3)
    expected = {1.0: [-0.205823, 0.413739, -0.207916], 10.0: [-0.002322, 0.064344, -0.062023]}
    for tau, gradient in expected.items():
        alphas = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
        out = (operation_weights.gumbel_hard(alphas, mask, tau, noise) * values).sum()
        assert float(out.detach()) == 3.0
        out.backward()
        assert alphas.grad is not None
        torch.testing.assert_close(alphas.grad, torch.tensor([gradient]), atol=1e-6, rtol=0)
        assert float(alphas.grad.sum()) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_draws_follow_the_relaxation_at_every_temperature(tau: float) -> None:
    n = 20_000
    alphas = torch.tensor([[1.0, 0.0, -1.0]]).expand(n, 3)
    mask = torch.ones(n, 3, dtype=torch.bool)
    noise = operation_weights.gumbel_noise(alphas, torch.Generator().manual_seed(0))
    counts = operation_weights.gumbel_hard(alphas, mask, tau, noise).sum(0)
    p = alphas[0].softmax(0)
    assert ((counts / n - p).abs() <= 3 * (p * (1 - p) / n).sqrt()).all()


def test_a_draw_without_a_way_through_says_nothing() -> None:
    """All edges into the output drawn as none: the loss does not depend on the relaxation, and the search goes on."""
    net = SPACE.supernet(0).train()
    alphas = torch.zeros(6, 5, requires_grad=True)
    noise = torch.zeros(6, 5)
    noise[torch.arange(6), torch.tensor([CONV3, CONV3, SKIP, NONE, NONE, NONE])] = 9.0
    weights = operation_weights.gumbel_hard(alphas, FULL, 1.0, noise)

    def loss() -> torch.Tensor:
        return net.mix(torch.randn(4, 1, 8, 8), weights, active_EO=weights.detach() > 0).logsumexp(1).sum()

    (gradient,) = first_order(loss, [alphas])
    assert not gradient.any()


def test_dirichlet_weights_have_the_right_mean_and_gradient() -> None:
    """DrNAS: uniform at 0; the pathwise gradient of an expected weight is that of its mean c_0 / sum of c."""
    alphas = torch.tensor([[0.5, 0.0, -1.0]], dtype=torch.float64).expand(40_000, 3).contiguous().requires_grad_(True)
    mask = torch.ones(40_000, 3, dtype=torch.bool)
    weights = operation_weights.dirichlet(alphas, mask, 0)
    torch.testing.assert_close(weights.sum(1), torch.ones(40_000, dtype=torch.float64))
    concentration = torch.tensor([1.5, 1.0, math.exp(-1.0)], dtype=torch.float64)
    torch.testing.assert_close(weights.mean(0), concentration / concentration.sum(), atol=0.005, rtol=0)
    (gradient,) = torch.autograd.grad(weights[:, 0].mean(), alphas)
    row = alphas.detach()[:1].requires_grad_(True)
    (exact,) = torch.autograd.grad(operation_weights.dirichlet_mean(row, mask[:1])[0, 0], row)
    torch.testing.assert_close(gradient.sum(0), exact[0], atol=0.01, rtol=0)
    assert float(exact[0, 0]) > 0
    zero = torch.zeros(1, 4)
    alive = torch.tensor([[True, True, False, True]])
    torch.testing.assert_close(operation_weights.dirichlet_mean(zero, alive), torch.tensor([[1.0, 1.0, 0.0, 1.0]]) / 3)
    assert float(operation_weights.anchor_distance(zero, alive)) == pytest.approx(0.0, abs=1e-5)
    assert torch.equal(operation_weights.dirichlet(zero, alive, 5), operation_weights.dirichlet(zero, alive, 5))
    assert float(operation_weights.dirichlet(zero, alive, 5)[0, 2]) == 0.0


def test_beta_decay_lowers_each_logit_by_its_weight() -> None:
    alphas = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    (gradient,) = torch.autograd.grad(operation_weights.log_sum_exp(alphas, mask), alphas)
    torch.testing.assert_close(gradient, operation_weights.softmax(alphas.detach(), mask) / 2)


@pytest.mark.parametrize("of", [SPACE, darts_cell.build({"preset": "digits"}, ImageShape(1, 8, 8, 10))])
def test_entangled_operations_are_parts_of_one(of: RelaxedSpace) -> None:
    """Where one of two nested operations has all the weight, the relaxation is the network that inherits its slice."""
    net = of.supernet(0).train()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    networks = sample(of.decisions, np.random.default_rng(0), 4)
    tables = [torch.from_numpy(of.table(of.canonical(genes[None])[0])).float() for genes in networks]
    entangled = [net.mix(x, table, active_EO=table > 0, entangled=True) for table in tables]
    net.disentangle()
    for genes, table, mixed in zip(networks, tables, entangled, strict=True):
        torch.testing.assert_close(mixed, net(x, Arch(of.id, tuple(genes.tolist()))), rtol=1e-3, atol=1e-4)
        if table[:, of.relaxation.nested[0][0]].any():
            assert not torch.allclose(mixed, of.supernet(0).train().mix(x, table), rtol=1e-3, atol=1e-4)
    alphas = torch.zeros(of.relaxation.shape, requires_grad=True)
    net.mix(x, alphas.softmax(1), entangled=True).logsumexp(1).sum().backward()
    assert alphas.grad is not None
    assert all(float(alphas.grad[:, op].abs().sum()) > 0 for pair in of.relaxation.nested for op in pair)


def test_an_entangled_kernel_gives_the_weighted_sum_of_linear_operations() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 7, 7, generator=generator), torch.randn(4, 3, 5, 5, generator=generator)
    large = torch.nn.functional.conv2d(x, weight, padding=2)
    small = torch.nn.functional.conv2d(x, centre(weight, 3), padding=1)
    mixed = torch.nn.functional.conv2d(x, entangled_kernel(weight, 3, torch.tensor(0.3)), padding=2)
    torch.testing.assert_close(mixed, 0.3 * large + 0.7 * small, rtol=1e-4, atol=1e-4)


def test_only_drawn_operations_learn() -> None:
    net = SPACE.supernet(0).train()
    alphas = torch.zeros(6, 5, requires_grad=True)
    noise = operation_weights.gumbel_noise(torch.zeros(6, 5), torch.Generator().manual_seed(3))
    weights = operation_weights.gumbel_hard(alphas, FULL, 1.0, noise)
    sampled_operations = weights.argmax(1).tolist()
    net.mix(torch.randn(4, 1, 8, 8), weights, active_EO=weights > 0).logsumexp(1).sum().backward()
    reaches = SPACE.canonical(np.array([sampled_operations]))[0]
    for cells in net.stages:
        for e in range(6):
            grads = [cells[0].conv1[e].conv.weight.grad, cells[0].conv3[e].conv.weight.grad]
            assert [g is not None and bool(g.abs().sum() > 0) for g in grads] == [
                reaches[e] == CONV3 - 1,
                reaches[e] == CONV3,
            ]


def test_removed_operations_weigh_nothing_and_dead_rows_have_gradients() -> None:
    mask = FULL.clone()
    mask[0, 1:] = False
    mask[1] = False
    alphas = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    noise = operation_weights.gumbel_noise(torch.zeros(6, 5), torch.Generator().manual_seed(1))
    for weights in (
        operation_weights.softmax(alphas, mask),
        operation_weights.gumbel_soft(alphas, mask, 0.5, noise),
        operation_weights.gumbel_hard(alphas, mask, 0.5, noise),
        operation_weights.sparse_noisy(alphas, mask, 0.5, 1.0, noise),
        operation_weights.sigmoid(alphas, mask),
    ):
        assert bool((weights[~mask] == 0).all())
        (gradient,) = torch.autograd.grad(weights.square().sum(), alphas)
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient[1].abs().sum()) == 0.0
    assert operation_weights.softmax(alphas, mask)[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_small_temperature_without_noise_has_no_gradient_and_with_noise_one() -> None:
    row = torch.tensor([[1.0, 0.5, 0.0, -1.0]], dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)

    def steepest(tau: float, sigma: float) -> float:
        alphas = row.clone().requires_grad_(True)
        noise = torch.full_like(row, 1.0)
        (g,) = torch.autograd.grad(operation_weights.sparse_noisy(alphas, mask, tau, sigma, noise)[0, 1], alphas)
        return float(g.abs().max())

    assert steepest(1.0, 0.0) == pytest.approx(0.205, abs=1e-3)
    assert steepest(0.1, 0.0) == pytest.approx(0.066, abs=1e-3)
    assert steepest(0.01, 0.0) == pytest.approx(1.9e-20, rel=0.05)
    assert steepest(0.01, 0.5) > 1.0  # the leader is pushed down to its follower
    plain = operation_weights.softmax(row, mask)
    assert torch.equal(operation_weights.sparse_noisy(row, mask, 1.0, 0.0, torch.randn(1, 4).double()), plain)


def test_temperature_schedules() -> None:
    assert [operation_weights.linear(10.0, 0.1, e, 250) for e in (0, 249)] == pytest.approx([10.0, 0.1])
    assert [operation_weights.exponential(1.0, 0.01, e, 51) for e in (0, 25, 50)] == pytest.approx([1.0, 0.1, 0.01])
    row = torch.tensor([[1.0, 0.5, 0.0, -1.0]], dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    for tau, entropy in ((10.0, 1.38362), (1.0, 1.19298), (0.5, 0.88754), (0.1, 0.04067)):
        assert float(operation_weights.row_entropy(operation_weights.softmax(row, mask, tau))) == pytest.approx(
            entropy, abs=1e-5
        )
        if tau < 10:
            assert operation_weights.temperature_for_entropy(row, mask, entropy) == pytest.approx(tau, abs=1e-4)
    same = torch.zeros(2, 4)
    assert operation_weights.temperature_for_entropy(same, torch.ones(2, 4, dtype=torch.bool), 0.5) == 1.0


def test_edges_of_a_node_share_its_weight() -> None:
    betas = torch.randn(6, generator=torch.Generator().manual_seed(0))
    nodes = SPACE.relaxation.nodes
    weights = operation_weights.edge_weights(betas, nodes)
    for node in set(nodes):
        rows = [e for e, n in enumerate(nodes) if n == node]
        torch.testing.assert_close(weights[rows], betas[rows].softmax(0))


# Sharpness


def test_the_dominant_eigenvalue_of_known_quadratics() -> None:
    h = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    at = torch.tensor([0.3, -0.7], dtype=torch.float64)
    assert dominant_eigenvalue(lambda a: 0.5 * a @ h @ a, at) == pytest.approx(2 + math.sqrt(2), abs=1e-9)
    assert dominant_eigenvalue(lambda a: a.sum(), at) == 0.0


def test_power_iteration_finds_the_signed_top() -> None:
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(100, 100, generator=generator, dtype=torch.float64))
    for ends in ((-9.0, 5.0), (-2.0, 7.0)):
        values = torch.linspace(-1.0, 1.0, 100, dtype=torch.float64)
        values[0], values[1] = ends
        h = q @ values.diag() @ q.T
        at = torch.zeros(100, dtype=torch.float64)
        assert dominant_eigenvalue(lambda a, h=h: 0.5 * a @ h @ a, at, 60) == pytest.approx(ends[1], rel=1e-3)


def _trigger(series: Callable[[int], float], epochs: int = 80) -> tuple[int, int] | None:
    readings: list[tuple[int, float]] = []
    for epoch in range(0, epochs, 2):
        readings.append((epoch, series(epoch)))
        if (back := stop_epoch(readings)) is not None:
            return epoch, back
    return None


def test_early_stopping_goes_back_to_before_the_growth() -> None:
    assert _trigger(lambda e: 0.3) is None
    assert _trigger(lambda e: 0.2 * 1.2 ** max(0, (e - 20) / 2)) == (28, 16)
    assert _trigger(lambda e: 0.1 + 0.01 * e) == (22, 10)
    assert _trigger(lambda e: 0.2 if e < 40 else 2.0) == (40, 28)
    assert _trigger(lambda e: 1.0 - 0.01 * e) is None


# Perturbation


def planted(scores: dict[tuple[int, int | None], float]) -> Callable[[tuple[int, int | None]], AccuracyAndLoss]:
    return lambda trial: AccuracyAndLoss(100 * (1 - scores.get(trial, 0.0)), 1.0)


def test_an_edge_keeps_what_the_supernet_misses_most_whatever_the_logits_say() -> None:
    relaxation = replace(
        SPACE.relaxation,
        edges=("only",),
        operations=("none", "a", "b", "c"),
        nodes=(1,),
        none=0,
        skip=1,
        parameter_free=(0, 1),
    )
    mask = torch.ones(1, 4, dtype=torch.bool)
    strengths = torch.tensor([[0.0, 5.0, 0.0, 0.0]]).softmax(1)
    trials_of_edge = perturbation.trials(relaxation, mask, ("edge", 0))
    assert trials_of_edge == [(0, 1), (0, 2), (0, 3)]
    score = planted({(0, 1): 0.01, (0, 2): 0.20, (0, 3): 0.05})
    remaining_mask = perturbation.decide(
        mask, ("edge", 0), trials_of_edge, [score(t) for t in trials_of_edge], strengths
    )
    assert remaining_mask.tolist() == [[False, False, True, False]]
    tied = [AccuracyAndLoss(50.0, 1.0), AccuracyAndLoss(50.0, 2.0), AccuracyAndLoss(50.0, 2.0)]
    remaining_mask = perturbation.decide(mask, ("edge", 0), trials_of_edge, tied, torch.tensor([[0.0, 0.0, 0.1, 0.2]]))
    assert remaining_mask.tolist() == [[False, False, False, True]]  # by loss, then by strength


def test_a_node_drops_the_edge_it_misses_least_until_two_are_left() -> None:
    relaxation = replace(
        SPACE.relaxation,
        edges=tuple("pqrs"),
        operations=("none", "a"),
        nodes=(5, 5, 5, 5),
        skip=1,
        parameter_free=(0, 1),
        inputs=2,
    )
    mask = torch.ones(4, 2, dtype=torch.bool)
    order = [target for (target,) in perturbation.targets(relaxation, [range(4)], np.random.default_rng(0))]
    assert sorted(order[:4]) == [("edge", e) for e in range(4)]
    assert order[4:] == [("node", 5)]
    trials_of_edge = perturbation.trials(relaxation, mask, order[4])
    scores = [AccuracyAndLoss(a, 1.0) for a in (70.0, 60.0, 65.0, 72.0)]
    mask = perturbation.decide(mask, order[4], trials_of_edge, scores, torch.ones(4, 2))
    assert mask.any(1).tolist() == [True, True, True, False]
    trials_of_edge = perturbation.trials(relaxation, mask, order[4])
    assert [e for e, _ in trials_of_edge] == [0, 1, 2]
    mask = perturbation.decide(mask, order[4], trials_of_edge, scores[:3], torch.ones(4, 2))
    assert mask.any(1).tolist() == [False, True, True, False]


def test_cells_are_decided_side_by_side_in_the_rounds_of_the_paper() -> None:
    """DARTS-PT on the cells of DARTS: 14 rounds of an edge of either cell, then 3 of a node of either."""
    space = darts_cell.build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    rounds = perturbation.targets(space.relaxation, [range(14), range(14, 28)], np.random.default_rng(0))
    assert len(rounds) == 14 + 3
    assert all([kind for kind, _ in targets] == ["edge", "edge"] for targets in rounds[:14])
    assert {where for targets in rounds[:14] for _, where in targets} == set(range(28))
    assert all(a < 14 <= b for (_, a), (_, b) in rounds[:14])
    assert all([kind for kind, _ in targets] == ["node", "node"] for targets in rounds[14:])
    assert len({where for targets in rounds[14:] for _, where in targets}) == 6


def test_what_is_read_off_a_pruned_relaxation_has_survived() -> None:
    """However weak: two edges into each node of a DARTS cell keep their strongest operation."""
    space = darts_cell.build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    nodes, inputs = space.relaxation.nodes, space.relaxation.inputs
    mask = torch.ones(space.relaxation.shape, dtype=torch.bool)
    mask[:, space.relaxation.none] = False
    strengths = torch.rand(space.relaxation.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    strengths[0, SKIP] = 1.0  # the node's other edges are weak beside it
    for _ in range(12):
        mask = survivors(strengths, mask, nodes, inputs)
        network_table = torch.from_numpy(space.table(space.discretise((strengths * mask).double().numpy()))) > 0
        assert bool((network_table <= mask).all())
    assert bool(mask[nodes.index(nodes[0]) + 1].any())


def test_taking_away_raises_nothing_else() -> None:
    weights = torch.full((2, 3), 1 / 3)
    assert perturbation.without(weights, (0, 2)).sum() == pytest.approx(5 / 3)
    assert perturbation.without(weights, (1, None))[1].tolist() == [0.0, 0.0, 0.0]
    assert weights.sum() == pytest.approx(2.0)


# Teachers


def test_votes_soft_and_majority() -> None:
    log_votes = [torch.tensor([p]).log() for p in ([0.9, 0.1], [0.1, 0.9], [0.8, 0.2])]
    torch.testing.assert_close(vote(log_votes, 1.0, "soft"), torch.tensor([[0.6, 0.4]]))
    torch.testing.assert_close(vote(log_votes, 1.0, "majority", 0.0), torch.tensor([[2 / 3, 1 / 3]]))
    torch.testing.assert_close(vote(log_votes, 1.0, "majority").sum(1), torch.ones(1))


def test_a_student_that_agrees_with_its_teachers_learns_nothing_from_them() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for tau in (1.0, 4.0):
        target = vote([logits.detach()] * 3, tau, "soft")
        (g,) = torch.autograd.grad(distillation(logits, target, tau), logits)
        assert float(g.abs().max()) < 1e-12


# Pruning


def test_pressure_follows_the_number_of_deaths() -> None:
    pressure, trace = Pressure(1e-5), []
    for died in (0, 0, 5, 1):
        pressure = pressure.after(died)
        trace.append(pressure.weight)
    assert trace == pytest.approx([2e-5, 6e-5, 3e-5, 5e-5])
    for _ in range(4):
        pressure = pressure.after(0)
    assert pressure.stable
    assert not pressure.after(1).stable


def test_equal_strengths_are_equal_shares_of_their_node() -> None:
    mask = FULL.clone()
    mask[:, NONE] = False
    r = shares(operation_weights.sigmoid(torch.zeros(6, 5), mask), SPACE.relaxation.nodes)
    for e, node in enumerate(SPACE.relaxation.nodes):
        n = 4 * SPACE.relaxation.nodes.count(node)
        torch.testing.assert_close(r[e, 1:], torch.full((4,), 1 / n))


@pytest.mark.parametrize("edge", range(6))
def test_a_weak_operation_dies_on_every_edge(edge: int) -> None:
    mask = FULL.clone()
    mask[:, NONE] = False
    alphas = torch.zeros(6, 5)
    alphas[edge, CONV3] = -20.0
    remaining_mask = survivors(operation_weights.sigmoid(alphas, mask), mask, SPACE.relaxation.nodes)
    assert (mask & ~remaining_mask).nonzero().tolist() == [[edge, CONV3]]


def test_pruning_only_removes_and_something_is_always_left() -> None:
    mask = FULL.clone()
    mask[:, NONE] = False
    generator = torch.Generator().manual_seed(0)
    alphas = torch.zeros(6, 5)
    while True:
        before = mask
        alphas = alphas - 2 * torch.rand(6, 5, generator=generator)
        mask = survivors(operation_weights.sigmoid(alphas, mask), mask, SPACE.relaxation.nodes)
        assert bool((mask <= before).all())
        assert int(mask.sum()) >= 1
        if int(mask.sum()) <= 3:
            break


def test_the_penalty_prefers_to_shrink_the_dear() -> None:
    mask = FULL.clone()
    mask[:, NONE] = False
    alphas = torch.zeros(6, 5, requires_grad=True)
    costs = torch.zeros(6, 5)
    costs[:, CONV3] = 1.0
    (g,) = torch.autograd.grad(
        penalty(operation_weights.sigmoid(alphas, mask), mask, SPACE.relaxation.nodes, costs), alphas
    )
    assert bool((g[:, CONV3] > g[:, SKIP]).all())
    assert float(g[:, NONE].abs().sum()) == 0.0


# Cost of a relaxation


TABLE = np.arange(30, dtype=np.float64).reshape(6, 5) + 1.0


class Raw(NasBench201):
    """Every edge counts, so that costs may be additive."""

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG


RAW = Raw(SPACE.config, SPACE.shape)


def additive(genes_NG: Genes) -> Floats:
    return TABLE[np.arange(6), genes_NG].sum(axis=1)


def test_the_gradient_of_an_additive_cost_is_its_table() -> None:
    p = np.full((6, 5), 0.2)
    trials_of_edge = resource.expected(RAW, additive, p, np.random.default_rng(0), 3)
    np.testing.assert_allclose(
        trials_of_edge.by_EO - trials_of_edge.by_EO[:, :1], TABLE - TABLE[:, :1]
    )  # up to what the other edges cost
    alphas = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(resource.differentiable(trials_of_edge, alphas.softmax(1), NONE), alphas)
    torch.testing.assert_close(g.sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(g[:, NONE], torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    assert bool((g[:, CONV3] > 0).all())


def test_at_one_network_the_expected_cost_is_its_own() -> None:
    rng = np.random.default_rng(1)
    for genes in rng.integers(0, 5, size=(5, 6)):
        certain = np.eye(5)[genes]
        trials_of_edge = resource.expected(SPACE, lambda g: SPACE.costs(g)["macs"], certain, rng, 2)
        assert trials_of_edge.mean == SPACE.costs(genes[None])["macs"][0]


def test_the_expected_cost_is_that_of_all_networks() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=6)
    genes_NG = every(SPACE.decisions)
    likelihood = np.prod(p[np.arange(6), genes_NG], axis=1)
    truth = float(likelihood @ SPACE.costs(genes_NG)["macs"])
    trials_of_edge = resource.expected(SPACE, lambda g: SPACE.costs(g)["macs"], p, np.random.default_rng(1), 400)
    assert trials_of_edge.mean == pytest.approx(truth, rel=0.05)
    by_EO = np.array(
        [[likelihood[genes_NG[:, e] == o] @ SPACE.costs(genes_NG[genes_NG[:, e] == o])["macs"] / p[e, o]
          for o in range(5)] for e in range(6)]
    )  # fmt: skip
    np.testing.assert_allclose(trials_of_edge.by_EO, by_EO, rtol=0.1)


def test_of_two_equal_operations_the_faster_wins() -> None:
    alphas = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    gaps = []
    for _ in range(20):
        p = alphas.softmax(1)
        trials_of_edge = resource.expected(RAW, additive, p.detach().numpy(), np.random.default_rng(0), 1)
        (g,) = torch.autograd.grad(resource.differentiable(trials_of_edge, p, NONE), alphas)
        with torch.no_grad():
            alphas.sub_(0.1 * g)
        gaps.append(float(alphas[0, SKIP].detach() - alphas[0, CONV3].detach()))
    assert gaps == sorted(gaps)
    assert gaps[0] > 0


def test_the_multiplier_grows_while_the_bound_is_broken_and_rests_below() -> None:
    m = resource.Multiplier.of(0.5, 10.0, 99.0)
    values = []
    for cost in (20.0, 20.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0):
        m = m.after(cost)
        values.append(m.value)
    assert values[:2] == [0.5, 1.0]
    assert values[-1] == 0.0
    assert m.factor(5.0) == 0.0
    assert m.factor(20.0) == pytest.approx(0.05)
    assert resource.Multiplier.of(0.5, 10.0, 99.0).factor(9.99) == 0.0  # a bound that is met costs nothing
    assert resource.Multiplier.of(0.5, 10.0, 99.0).after(20.0).factor(5.1) == pytest.approx(0.5 * 0.51 / 10.0)
    free = resource.Multiplier.of(0.5, None, 10.0)
    assert free.after(1e9) == free
    assert free.factor(7.0) == pytest.approx(0.05)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_bounds_are_met_by_the_likeliest_network_found(share: float) -> None:
    scores = np.random.default_rng(3).dirichlet(np.ones(5), size=6)
    macs = SPACE.costs(np.full((1, 6), CONV3))["macs"][0]
    least = SPACE.costs(np.zeros((1, 6), dtype=np.int64))["macs"][0]
    bound = least + share * (macs - least) * 0.5

    def broken(genes_NG: Genes) -> Floats:
        return np.maximum(0.0, SPACE.costs(genes_NG)["macs"] / bound - 1.0)

    genes = resource.within_bounds(SPACE, broken, scores, np.random.default_rng(0))
    assert broken(genes[None])[0] == 0.0
    everything = SPACE.canonical(every(SPACE.decisions))
    feasible = np.unique(everything[broken(everything) == 0], axis=0)
    likelihoods = np.log(scores)[np.arange(6), feasible].sum(axis=1)
    own = np.log(scores)[np.arange(6), genes].sum()
    assert (likelihoods > own + 1e-9).mean() < 0.002


def test_a_bound_that_nothing_meets_is_said() -> None:
    with pytest.raises(InfeasibleBound, match="near the architecture parameters"):
        resource.within_bounds(
            SPACE, lambda g: np.ones(len(g)), np.full((6, 5), 0.2), np.random.default_rng(0), samples=8
        )


# Collapse, options, traces


def test_shares_of_identities() -> None:
    table = SPACE.table(np.array([SKIP, SKIP, SKIP, SKIP, CONV3, NONE]))
    assert skip_share(SPACE.relaxation, table) == 0.8
    assert parameter_free_share(SPACE.relaxation, table) == pytest.approx(5 / 6)
    assert skip_share(SPACE.relaxation, SPACE.table(np.zeros(6, dtype=np.int64))) == 0.0
    assert is_relaxed(SPACE)
    assert not is_relaxed(TinySpace({}, SPACE.shape))


def test_each_sign_of_collapse_is_seen() -> None:
    healthy = {
        "skip_share": 0.2,
        "skip_limit": 0.5,
        "parameter_free_share": 0.4,
        "entropy": 1.0,
        "operations": 5,
        "cooled": False,
        "progress": 0.2,
        "search_epochs": 50,
        "eigenvalues": [],
    }
    assert signs_of_collapse(**healthy) == []  # type: ignore[arg-type]
    growing = [(e, 0.1 + 0.01 * e) for e in range(0, 24, 2)]
    for change, word in (
        ({"skip_share": 0.6}, "identities"),
        ({"parameter_free_share": 1.0}, "no operation with parameters"),
        ({"entropy": 0.05}, "froze"),
        ({"eigenvalues": growing}, "eigenvalue"),
    ):
        (sign,) = signs_of_collapse(**{**healthy, **change})  # type: ignore[arg-type]
        assert word in sign
    for late in ({"progress": 0.9}, {"cooled": True}):
        assert signs_of_collapse(**{**healthy, "entropy": 0.05, **late}) == []  # type: ignore[arg-type]


def test_epoch_counts_of_presets_scale_with_epochs() -> None:
    for epochs, warmup in ((50, 15), (10, 3), (2, 1), (1, 0), (100, 30)):
        options = DartsParams.model_validate({"preset": "pc_darts", "epochs": epochs})
        assert rates(options, PUBLISHED_STEPS, (1, 2, 4)).alpha_warmup == warmup
    for epochs, warmup in ((50, 5), (10, 1), (5, 1), (2, 1)):
        assert DartsParams.model_validate({"preset": "sd_darts", "epochs": epochs}).teacher_warmup == warmup
    for epochs, probe_every in ((50, 2), (23, 1), (12, 1), (100, 4)):
        params = DartsParams.model_validate({"preset": "rdarts", "epochs": epochs})
        assert params.probe_every == probe_every
        assert can_stop(epochs, probe_every, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_rates_follow_the_steps_unless_the_spec_says_otherwise(preset: str) -> None:
    options = DartsParams.model_validate({"preset": preset, "epochs": 20})
    as_published = rates(options, PUBLISHED_STEPS, (1, 2, 4, 8))
    assert as_published == published_rates(options)
    assert rates(options, 10 * PUBLISHED_STEPS, (1, 2, 4, 8)) == as_published
    short = rates(options, 300, (1, 2, 4, 8))
    unmixed = preset in PLAIN or options.prune or options.entangled
    assert short.partial == (1 if unmixed else 4)
    narrow = 4 if "partial" in PRESETS[preset] else 2  # what a preset names is not replaced, but refused
    assert rates(options, 300, (1, 2)).partial == (1 if unmixed else narrow)
    assert 0 < short.alpha_warmup <= 6
    assert short.temperature_end == (1.0 if options.temperature == "constant" else 0.3)
    longer = rates(options, SHORT_STEPS, (1, 2, 4, 8))
    assert (longer.lr, longer.partial) == (as_published.lr, as_published.partial)
    explicit = {"lr": 0.02, "lr_end": 0.01, "alpha_lr": 0.5, "alpha_warmup": 1}
    explicit_rates = rates(DartsParams.model_validate({"preset": preset, "epochs": 20, **explicit}), 300, (1, 2, 4, 8))
    assert {name: getattr(explicit_rates, name) for name in explicit} == explicit


def test_logits_can_move_as_far_in_few_steps() -> None:
    for preset, factor in (("darts", 1.0), ("darts_pt", 2.0), ("pc_darts", 2.0), ("proxyless", 10 / 3), ("drnas", 2.0)):
        options = DartsParams.model_validate({"preset": preset})
        for steps in (300, 5_000, PUBLISHED_STEPS):
            reach = steps * rates(options, steps, (1, 4)).alpha_lr
            partial_factor = 1.0 if preset == "darts_pt" and steps >= SHORT_STEPS else factor
            assert reach == pytest.approx(partial_factor * 3e-4 * PUBLISHED_STEPS)
    sgd = DartsParams.model_validate({"preset": "gold"})
    assert rates(sgd, 300, (1,)).alpha_lr == 1.0


def test_a_warm_up_leaves_early_stopping_its_epochs() -> None:
    for epochs in (9, 10, 12, 20, 40):
        options = DartsParams.model_validate({"preset": "rdarts", "epochs": epochs})
        assert can_stop(epochs, options.probe_every, rates(options, 100, (1,)).alpha_warmup)


def test_early_stopping_scales_with_the_length_of_the_search() -> None:
    growing = [(e, 0.2 * 1.5**e) for e in range(12)]
    stops = [n for n in range(1, 13) if stop_epoch(growing[:n], 12) is not None]
    assert stops[0] == 9  # its probe of epoch 8 restores epoch 2, a fifth of 12 epochs
    assert stop_epoch(growing[:9], 12) == scaled(10, 12) == 2
    assert stop_epoch(growing, 50) is None
    assert [can_stop(epochs, 1, 0) for epochs in (8, 9)] == [False, True]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_can_be_overridden(preset: str) -> None:
    params = DartsParams.model_validate({"preset": preset, "epochs": 50})
    assert params.epochs == 50
    published = published_rates(params)
    for name, value in PRESETS[preset].items():
        assert getattr(published if name in FOLLOWING else params, name) == value
    assert DartsParams.model_validate({"preset": preset, "epochs": 60}).epochs == 60
    again = DartsParams.model_validate(params.model_dump(mode="json"))
    assert again == params


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preset": "gold", "selection": "perturbation"}, "nothing to select"),
        ({"preset": "gold", "order": "first"}, "one level"),
        ({"preset": "gold", "relaxation": "softmax"}, "belong together"),
        ({"relaxation": "sigmoid"}, "belong together"),
        ({"preset": "gold", "teachers": 2}, "teachers"),
        ({"preset": "gold", "latency_weight": 1.0}, "penalty of its own"),
        ({"preset": "gold", "partial": 4}, "whole channels"),
        ({"preset": "gdas", "order": "second"}, "not differentiable"),
        ({"preset": "rdarts", "alpha_lr": 0.0}, "architecture parameters that learn"),
        ({"preset": "rdarts", "probe_every": 0}, "probe_every"),
        ({"preset": "rdarts", "selection": "perturbation"}, "sharp supernet"),
        ({"preset": "la_darts", "alpha_lr": 0.0}, "latency_weight needs"),
        ({"noise": 0.5}, "sparse_noisy"),
        ({"exact_hessian": True}, "exact_hessian is for order second"),
        ({"all_paths": True}, "gumbel_hard"),
        ({"temperature_end": 0.1}, "temperature that moves"),
        ({"preset": "snas", "weights_first": True}, "learn together"),
        ({"lr": 0.01, "lr_end": 0.1}, "lr_end"),
        ({"anchor_weight": 0.1}, "anchor_weight is for dirichlet"),
        ({"preset": "drnas", "beta_decay": 1.0}, "beta_decay is for a softmax"),
        ({"preset": "beta_darts", "alpha_lr": 0.0}, "beta_decay needs"),
        ({"preset": "gold", "entangled": True}, "entangled ones share"),
        ({"preset": "proxyless", "entangled": True}, "entangled ones share"),
        ({"preset": "drats"}, "darts"),
        ({"preset": "pc_darts", "epochs": 10, "alpha_warmup": 15}, "alpha_warmup leaves no epoch"),
        ({"preset": "sd_darts", "epochs": 5, "teacher_warmup": 5}, "never teach"),
        ({"teachers": 2, "epochs": 6, "teacher_every": 4}, "first is from epoch 8 of 6"),
        ({"preset": "rdarts", "epochs": 12, "probe_every": 2}, "cannot stop within 12 epochs"),
        ({"preset": "rdarts", "epochs": 6}, "cannot stop within 6 epochs"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DartsParams.model_validate(options)


def test_a_trace_survives_the_log() -> None:
    event = Traced("train", 3, {"entropy": 1.5}, ("a", "b"), ("x",), ((0.25,), (0.75,)))
    assert decode(encode(event)) == event
    assert decode({"kind": "traced", "stage": "train", "step": 1}) == Traced("train", 1)
