"""Supernet ensembles: the routing table, and a whole search with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas.core import registry
from nas.core.arch import Arch, Decision, Genes, as_archs, every, sample
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.events import Checkpoint, StageFinished, Traced, fold_all
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.spaces.base import SpaceDefaults
from nas.stages.fronts import front_of
from nas.strategies.few_shot import FEW_SHOT
from nas.supernet import Supernet
from nas.training.fewshot.ensemble import EnsembleTraining, balance, imbalance, probabilities, train_ensemble
from nas.training.fewshot.partition import RoutingTable, router_from_json, routing_genes
from nas.training.fewshot.routed_supernet import RoutedSupernet
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe
from nas.training.schedules import uniform
from nas.training.state import TrainState
from server.store.rank_correlation import rank_correlation_schema
from tests.support.engine import estimate_cost, problem, run, stored

pytestmark = pytest.mark.usefixtures("one_thread")


# Balancing


def test_equal_rows_are_balanced_at_once() -> None:
    logits = np.array([[2.0, 1.0]] * 3)
    added = balance(logits, np.full(3, 1 / 3), max_iterations=1)
    np.testing.assert_allclose(probabilities(logits + added), 0.5)


def test_balancing_ends_in_the_known_table() -> None:
    logits = 5.0 * np.array([[3.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    p = probabilities(logits + balance(logits, np.full(3, 1 / 3), tolerance=1e-6))
    np.testing.assert_allclose(p, [[0.9934, 0.0066], [0.5019, 0.4981], [0.0067, 0.9933]], atol=2e-4)


@pytest.mark.parametrize("models", [1, 2, 3, 8])
@pytest.mark.parametrize("cold", [1.0, 100.0])
def test_every_supernet_is_drawn_equally_often(models: int, cold: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng((seed, models))
        logits, share = cold * rng.random((36, models)), rng.dirichlet(np.ones(36))
        p = probabilities(logits + balance(logits, share))
        np.testing.assert_allclose(p.sum(axis=1), 1.0)
        assert imbalance(share @ p) < 1e-4
        if models > 1 and cold > 1:
            assert imbalance(share @ probabilities(logits)) > 1e-4


# Learning what belongs together


class Signs(Supernet):
    """A line through the origin, whose sign the choice of the first decision flips in half of its choices: networks of
    the two halves undo each other's learning."""

    def __init__(self, flips: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        self.flips = flips
        self.line = nn.Parameter(0.01 * torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        sign = 1.0 - 2.0 * self.flips[arch.genes[0]]
        return sign * x_BCHW.flatten(1) @ self.line.T

    def subnet(self, arch: Arch) -> nn.Module:
        raise NotImplementedError


class SignsSpace(SpaceDefaults):
    name = id = "signs"
    shape = ImageShape(1, 4, 4, 2)

    def __init__(self, choices: int) -> None:
        self.decisions = (Decision("a.op", tuple(range(choices))), Decision("b.op", (0, 1, 2)))

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        return (1, 4, 4)


def halves(n: int, seed: int) -> Split:
    """Images of which the upper or the lower half is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 100, (n, 1, 4, 4))
    images[:, 0, :2] += 120 * (1 - labels)[:, None, None]
    images[:, 0, 2:] += 120 * labels[:, None, None]
    return Split(images.astype(np.uint8), labels.astype(np.int64))


DATA = Dataset("halves", SignsSpace.shape, halves(200, 0), halves(100, 1), halves(10, 2), ("up", "down"), "x")


def begin(
    flips: tuple[int, ...], models: int = 2, seed: int = 0, epochs: int = 25, warm: bool = True
) -> EnsembleTraining:
    space: Any = SignsSpace(len(flips))
    recipe = SupernetRecipe(uniform(epochs, 0.05, {"op"}, 1), batch_size=20, weight_decay=0.0, label_smoothing=0.0)
    nets = [Signs(flips, 0 if warm else m) for m in range(models)]
    return EnsembleTraining(nets, space, DATA, Pipeline(DATA, "cpu"), recipe, seed, (0,))


@pytest.mark.parametrize("flips", [(0, 1, 0, 1), (0, 0, 1, 1, 0, 1), (1, 0, 0, 1, 0, 0, 1, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_groups_are_recovered(flips: tuple[int, ...], seed: int) -> None:
    """From equal weights, as inherited ones are."""
    learning = begin(flips, seed=seed)
    for update in train_ensemble(learning, TrainState(), lambda: False):
        assert not isinstance(update, Step) or np.isfinite(update.loss)
    table = learning.routing_table().table
    assert table in (flips, tuple(1 - f for f in flips))
    p = learning.p_RM(learning.steps - 1)
    assert imbalance(learning.share_R @ p) < 1e-3
    right = learning.table_RM[np.arange(len(flips)), table]
    wrong = learning.table_RM[np.arange(len(flips)), 1 - np.array(table)]
    assert right.mean() > 0.9
    assert (right > wrong).all()


def test_one_supernet_alone_fails_where_two_do_not() -> None:
    flips = (0, 1, 0, 1)
    single_model = begin(flips, models=1)
    list(train_ensemble(single_model, TrainState(), lambda: False))
    assert (single_model.p_RM(5) == 1.0).all()
    assert set(single_model.routing_table().table) == {0}
    assert single_model.table_RM.mean() < 0.75


def test_resuming_anywhere_gives_bitwise_equal_weights() -> None:
    uninterrupted = begin((0, 1, 0, 1), epochs=3)
    states = [
        n.to_bytes() for n in train_ensemble(uninterrupted, TrainState(), lambda: True) if isinstance(n, TrainState)
    ]
    assert len(states) == uninterrupted.steps == 30
    for at in (0, 9, 10, 28):  # inside an epoch, at its end, at the beginning of the next
        resumed = begin((0, 1, 0, 1), epochs=3)
        *_, last = train_ensemble(resumed, TrainState.from_bytes(states[at], "cpu"), lambda: False)
        assert isinstance(last, TrainState)
        assert last.to_bytes() == states[-1]
    other = begin((0, 1, 0, 1), epochs=3, seed=1)
    *_, last = train_ensemble(other, TrainState(), lambda: False)
    assert isinstance(last, TrainState)
    assert last.to_bytes() != states[-1]


# Routing


def downsampling() -> Any:
    return registry.load_space("resnet20_downsampling").build({"preset": "digits"}, ImageShape(1, 8, 8, 10))


def test_combinations_of_the_downsampling_space_have_equal_shares() -> None:
    space = downsampling()
    genes = routing_genes(space, ())
    data = Dataset("x", space.shape, DATA.train, DATA.val, DATA.test, (), "x")
    recipe = SupernetRecipe(uniform(1, 0.1, {"downsampling"}, 1), batch_size=20)
    learning = EnsembleTraining([space.supernet(0)], space, data, Pipeline(data, "cpu"), recipe, 0, genes)
    assert (learning.share_R > 0).sum() == 36
    assert set(learning.share_R[learning.share_R > 0]) == {1 / 36}


def test_routing_table_json_round_trip_and_routing() -> None:
    space = downsampling()
    table = tuple(np.random.default_rng(0).integers(0, 3, 64).tolist())
    assignment = RoutingTable((0, 1), (8, 8), table, 3)
    assert router_from_json(assignment.as_json(space.decisions), space.decisions) == assignment
    routed = RoutedSupernet(space, assignment, [space.supernet(m) for m in range(3)])
    x = torch.randn(2, 1, 8, 8)
    networks = space.canonical(every(space.decisions))
    with torch.no_grad():
        for arch, part in zip(as_archs(space.id, networks), assignment.route(networks), strict=True):
            assert part == table[8 * arch.genes[0] + arch.genes[1]]
            assert torch.equal(routed(x, arch), routed.sub_supernets[part](x, arch))
    for broken in ({"table": table[1:]}, {"table": [3, *table[1:]]}, {"decisions": ["third", "fourth"]}):
        with pytest.raises(InvalidInput, match="routing table"):
            router_from_json({**assignment.as_json(space.decisions), **broken}, space.decisions)


def test_a_large_space_is_routed_by_named_decisions() -> None:
    space = registry.load_space("mobilenet_v3").build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    with pytest.raises(InvalidSpec, match="at most 4096 combinations"):
        routing_genes(space, ())
    with pytest.raises(InvalidSpec, match=r"stage1\.depth"):
        routing_genes(space, ["stage9.depth"])
    genes = routing_genes(space, ["stage1.depth", "stage2.depth"])
    data = Dataset("x", space.shape, DATA.train, DATA.val, DATA.test, (), "x")
    recipe = SupernetRecipe(uniform(1, 0.1, {"depth"}, 1), batch_size=20)
    learning = EnsembleTraining([Signs((0,))], space, data, Pipeline(data, "cpu"), recipe, 0, genes)
    assert learning.share_R.sum() == pytest.approx(1.0)
    sampled_genes = {learning._draw(np.random.default_rng(i)).genes for i in range(20)}
    assert len(sampled_genes) > 10
    genes_NG = sample(space.decisions, np.random.default_rng(0), 5)
    assert (learning.routing_table().route(space.canonical(genes_NG)) == 0).all()


# A whole search

PARAMS: dict[str, Any] = {
    "split": "ensemble",
    "subspaces": 2,
    "warmup_epochs": 1,
    "subspace_epochs": 2,
    "batch_size": 40,
    "rank_networks": 4,
    "rank_epochs": 1,
    "checkpoint_s": 1e-9,
}
SPEC = SearchSpec(
    space=SpaceSpec(name="resnet20_downsampling", params={"preset": "digits"}),
    data=DataSpec(params={"max_train": 160, "max_val": 80, "max_test": 80}),
    strategy=StrategySpec(name="few_shot", params=PARAMS),
    budget=BudgetSpec(evaluations=8, verified=2),
    export=ExportSpec(count=1, int8=False),
)


@pytest.mark.long
def test_an_ensemble_search_ends_with_a_verified_front_and_the_same_when_resumed(tmp_path: Path) -> None:
    events = stored(list(run(tmp_path, problem(SPEC))))
    expected = fold_all(events)
    assert tuple(expected.finished) == FEW_SHOT.stage_names(SPEC)
    front = front_of(SPEC, expected)
    assert front.final
    assert front.members
    assert len(expected.exports) == 1
    trained = expected.finished["train"]
    assert trained["steps"] == 2 * 2 * 3  # two epochs of three batches for each of two
    assert sum(trained["shares"]) == pytest.approx(1.0)
    assert trained["imbalance"] < 1e-2
    assert trained["one_shot_steps"] == trained["steps"]
    view = rank_correlation_schema(expected.finished)
    assert view is not None
    assert view.partition.decision == "first.downsampling, second.downsampling"
    assert [child.share for child in view.partition.children] == trained["shares"]
    assert sum(len(child.choices) for child in view.partition.children) == 36
    assert len(view.networks) == 4
    traces = [e for e in events if isinstance(e, Traced) and e.stage == "train"]
    assert len(traces[-1].rows) == 36
    assert all(sum(row) == pytest.approx(1.0, abs=1e-4) for row in traces[-1].table)
    marks = [i for i, e in enumerate(events) if isinstance(e, Checkpoint) and e.stage == "train"]
    for cut in (marks[1], marks[-1]):
        before = events[: cut + 1]
        later_events = []
        for event in run(tmp_path, problem(SPEC), before):
            later_events.append(event)
            if isinstance(event, StageFinished) and event.stage == "train":
                break
        assert fold_all(later_events, fold_all(before)).finished["train"] == trained


def test_an_ensemble_has_a_cost(tmp_path: Path) -> None:
    cost = estimate_cost(tmp_path, problem(SPEC), FEW_SHOT.stages(problem(SPEC))[2:4])
    assert [s.stage for s in cost.stages] == ["split", "train"]
    assert cost.stages[1].seconds is not None
    assert cost.stages[1].seconds > 0
