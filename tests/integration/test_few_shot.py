"""Few-shot supernets: splitting a space, routing to sub-supernets, and a whole search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, Decision, Genes, as_archs, sample
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.events import Checkpoint, Event, SearchState, Traced, fold, fold_all
from nas.core.ports import ImageShape, SearchSpace
from nas.core.spec import SpaceSpec, StrategySpec
from nas.spaces.base import SpaceDefaults
from nas.stages.fronts import front_of
from nas.stages.rank_correlation import RankCorrelationStage
from nas.stages.sub_supernets import SubSupernetsStage, _longest
from nas.stages.train import TrainStage
from nas.strategies.few_shot import FEW_SHOT
from nas.supernet import Supernet
from nas.training.fewshot.automatic import AutomaticSplit, conflict_of
from nas.training.fewshot.matching import RepeatedMatching, match_decisions, min_cut, split_by_matching
from nas.training.fewshot.partition import (
    SpacePartition,
    exhaustive_split,
    random_split,
    sample_subspace,
    split_breadth_first,
)
from nas.training.fewshot.routed_supernet import RoutedSupernet, split_supernet, supernet_from_weights
from nas.training.state import TrainState
from server.store.rank_correlation import rank_correlation_schema
from tests.support.engine import problem, run, stored
from tests.support.few_shot import MOBILE, PARAMS, SPEC

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(3, 16, 16, 5)


def spaces() -> list[SearchSpace]:
    cells = registry.load_space("nas_bench_201").build({"preset": "digits", "channels": 4}, SHAPE)
    mobile = registry.load_space("mobilenet_v3").build(MOBILE, SHAPE)
    return [cells, mobile]


# Groups


@pytest.mark.parametrize("n", range(2, 9))
def test_the_cut_is_that_of_a_formulation_of_its_own(n: int) -> None:
    """Signs x in {-1, 1}^n that maximise the cut of disagreements, x' (1 - S) x at its least, over all 2^n vectors."""
    rng = np.random.default_rng(n)
    for _ in range(5):
        half = rng.uniform(-1, 1, (n, n))
        similarity = (half + half.T) / 2
        np.fill_diagonal(similarity, 1.0)
        least = 2 if n >= 4 else 1
        signs = [np.array(x) for x in product((-1, 1), repeat=n) if least <= x.count(1) <= n - least]
        best = min(signs, key=lambda x: float(x @ (1 - similarity) @ x))
        groups = min_cut(similarity)
        assert sorted(c for g in groups for c in g) == list(range(n))
        side = np.array([1 if i in groups[0] else -1 for i in range(n)])
        assert (side == best).all() or (side == -best).all()


def test_the_best_cut_of_five_operations_by_hand() -> None:
    similarity = np.full((5, 5), 0.1)
    similarity[0, 3] = similarity[3, 0] = 0.2
    for (i, j), s in {(0, 1): 0.9, (2, 3): 0.8, (2, 4): 0.7, (3, 4): 0.9}.items():
        similarity[i, j] = similarity[j, i] = s
    np.fill_diagonal(similarity, 1.0)
    groups = min_cut(similarity)
    assert {frozenset(g) for g in groups} == {frozenset({0, 1}), frozenset({2, 3, 4})}
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    within = sum(1 - similarity[i, j] for i, j in pairs if (i in groups[0]) == (j in groups[0]))
    across = sum(1 - similarity[i, j] for i, j in pairs if (i in groups[0]) != (j in groups[0]))
    assert (within, across) == (pytest.approx(0.70), pytest.approx(5.30))


def test_an_operation_that_is_there_twice_stays_together() -> None:
    """Rows 1 and 3 pull the same way in all, so their distance is 0; whatever the others do, they share a group."""
    for seed in range(20):
        pulls = np.random.default_rng(seed).normal(size=(5, 12))
        pulls[3] = pulls[1]
        unit = pulls / np.linalg.norm(pulls, axis=1, keepdims=True)
        similarity = unit @ unit.T
        assert similarity[1, 3] == pytest.approx(1.0)
        assert any({1, 3} <= set(group) for group in min_cut(similarity))


@pytest.mark.parametrize("splits", [1, 2, 3])
def test_every_binary_split_doubles_the_parts_and_loses_no_network(splits: int) -> None:
    plan = [(gene, [[0, 1], [2, 3, 4]]) for gene in range(splits)]
    partition = split_breadth_first(plan, 64)
    assert partition.size == 2**splits
    sizes = [int(np.prod([len(leaf.get(gene, range(5))) for gene in range(6)])) for leaf in partition.allowed_choices()]
    assert sum(sizes) == 5**6


class Planted(Supernet):
    """Every choice of the first decision pulls the shared weights along its group's direction; the second decision's
    choices agree."""

    def __init__(self, group_of: tuple[int, ...]) -> None:
        super().__init__()
        self.group_of = group_of
        generator = torch.Generator().manual_seed(0)
        self.shared = nn.Parameter(torch.randn(2, 8, generator=generator) * 0.1)
        self.own = nn.Parameter(torch.randn(len(group_of), 2, generator=generator) * 0.1)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        choice = arch.genes[0]
        sign = 1.0 if self.group_of[choice] == 0 else -1.0
        return sign * x_BCHW.flatten(1) @ self.shared.T + self.own[choice]

    def subnet(self, arch: Arch) -> nn.Module:
        raise NotImplementedError


class PlantedSpace(SpaceDefaults):
    name = id = "planted"
    shape = ImageShape(1, 2, 4, 2)

    def __init__(self, choices: int) -> None:
        self.decisions = (Decision("a.op", tuple(range(choices))), Decision("b.op", (0, 1, 2, 3)))

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG


@pytest.mark.parametrize("group_of", [(0, 1, 0, 1), (0, 0, 1, 0, 1), (1, 0, 0, 1, 0, 0, 1, 0), (0, 1)])
def test_planted_groups_are_found_exactly(group_of: tuple[int, ...]) -> None:
    space: Any = PlantedSpace(len(group_of))
    generator = torch.Generator().manual_seed(1)

    def batch(arch: Arch, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(32, 1, 2, 4, generator=generator), torch.arange(32) % 2

    similarities = list(match_decisions(Planted(group_of), space, batch, (), 3, 0))
    partition = split_by_matching(similarities, 2)
    assert partition.gene == 0
    expected_groups = {tuple(i for i, g in enumerate(group_of) if g == side) for side in (0, 1)}
    assert set(partition.groups) == expected_groups
    assert np.allclose(similarities[1].similarity, 1.0, atol=1e-6)


class PlantedInteraction(Planted):
    """The first decision's choices conflict on half of the weights; on the others, which choices of the second agree
    depends on the first."""

    signs = ((1.0, 1.0, -1.0, -1.0), (-1.0, 1.0, -1.0, 1.0))

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        first, second = arch.genes
        halves = (1.0 - 2.0 * first) * x_BCHW.flatten(1)[:, :4], self.signs[first][second] * x_BCHW.flatten(1)[:, 4:]
        return torch.cat(halves, dim=1) @ self.shared.T + self.own[first]


def test_matching_again_finds_groups_of_each_subspace() -> None:
    space: Any = PlantedSpace(2)
    matching = RepeatedMatching(PlantedInteraction((0, 0)), space, noisy_batch, [0, 1], 32, 0, limit=4)
    comparisons = list(matching.run())
    assert matching.partition.gene == 0
    assert matching.partition.size == 4
    inside = [set(child.groups) for child in matching.partition.children]
    assert [child.gene for child in matching.partition.children] == [1, 1]
    assert inside == [{(0, 1), (2, 3)}, {(0, 2), (1, 3)}]
    assert [m.gene for m in comparisons] == [0, 1, 1, 1]  # both, and what is left inside either
    once = split_by_matching(comparisons[:2], 4)
    assert set(once.children[0].groups) == set(once.children[1].groups)


def test_matching_again_stops_where_nothing_is_left_to_split() -> None:
    space: Any = PlantedSpace(2)
    matching = RepeatedMatching(Planted((0, 1)), space, noisy_batch, [0], 2, 0, limit=8)
    assert len(list(matching.run())) == 1
    assert matching.partition.allowed_choices() == [{0: (0,)}, {0: (1,)}]


def noisy_batch(arch: Arch, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(repeat)
    return torch.randn(32, 1, 2, 4, generator=generator), torch.arange(32) % 2


@pytest.mark.parametrize("group_of", [(0, 1), (0, 1, 0, 1), (0, 0, 1, 0, 1)])
def test_an_automatic_split_separates_planted_conflicts_and_stops_there(group_of: tuple[int, ...]) -> None:
    space: Any = PlantedSpace(len(group_of))
    automatic = AutomaticSplit(Planted(group_of), space, noisy_batch, [0, 1], 8, 0, limit=4)
    conflicts = list(automatic.run())
    expected_groups = {tuple(i for i, g in enumerate(group_of) if g == side) for side in (0, 1)}
    assert set(automatic.partition.groups) == expected_groups
    assert automatic.partition.size == 2  # inside each group gradients agree
    assert [c.predicts_gain for c in conflicts[:2]] == [True, False]
    assert len(conflicts) > 2  # the children were compared as well


def test_an_automatic_split_leaves_choices_that_agree_together() -> None:
    space: Any = PlantedSpace(4)
    automatic = AutomaticSplit(Planted((0, 0, 0, 0)), space, noisy_batch, [0, 1], 8, 0, limit=4)
    assert not any(c.predicts_gain for c in automatic.run())
    assert automatic.partition.size == 1


@pytest.mark.parametrize("choices", [2, 3, 5])
def test_noise_predicts_no_gain(choices: int) -> None:
    """Similarities without structure around zero: of 200 decisions, few more than the level of the test."""
    generator = np.random.default_rng(choices)
    gains = 0
    for _ in range(200):
        noise = 0.3 * generator.standard_normal((8, choices, choices))
        table = (noise + noise.transpose(0, 2, 1)) / 2 + np.eye(choices)
        gains += conflict_of(0, range(choices), table, 1).predicts_gain
    assert gains <= 20


@pytest.mark.long
def test_a_space_that_stays_whole_trains_for_as_long_as_its_subspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutomaticSplit, "run", lambda self: iter(()))  # nothing conflicts
    strategy = StrategySpec(name="few_shot", params={**PARAMS, "split": "auto", "repeats": 4, "rank_networks": 0})
    spec = SPEC.model_copy(update={"strategy": strategy})
    events = stored(list(run(tmp_path, problem(spec))))
    state = fold_all(events)
    assert state.finished["split"]["subspaces"] == 1
    assert any("stays whole" in w for w in state.warnings)
    assert state.finished["train"]["steps"] == 2 * 3  # of two subspaces, three batches each
    assert front_of(spec, state).members
    schema = rank_correlation_schema(state.finished)
    assert schema is not None
    assert schema.partition is not None
    assert (schema.method, schema.partition.share, schema.partition.children) == ("auto", 1.0, [])


def test_an_automatic_split_of_cells_names_what_it_compared(tmp_path: Path) -> None:
    params = {**PARAMS, "split": "auto", "repeats": 4, "decisions": ["edge01.operation"], "rank_networks": 0}
    spec = SPEC.model_copy(update={"strategy": StrategySpec(name="few_shot", params=params)})
    state = SearchState()
    for event in run(tmp_path, problem(spec)):
        state = fold(state, event)
        if "split" in state.finished:
            break
    (matching,) = state.finished["split"]["matching"]
    assert matching["decision"] == "edge01.operation"
    assert len(matching["similarity"]) == 5
    assert state.finished["split"]["subspaces"] in (1, 2)


# Partitions and routing


def partitions(space: SearchSpace) -> list[SpacePartition]:
    rng = np.random.default_rng(5)
    name = space.decisions[-1].name
    return [random_split(space, 3, rng), random_split(space, 4, rng), exhaustive_split(space, [name], 8)]


@pytest.mark.parametrize("partition_index", [0, 1])
def test_subspaces_are_disjoint_and_complete_and_sample_their_own_networks(partition_index: int) -> None:
    space = spaces()[partition_index]
    genes = space.canonical(sample(space.decisions, np.random.default_rng(0), 500))
    everything = {d.axis: 10**6 for d in space.decisions}
    for partition in partitions(space):
        record = json.loads(json.dumps(partition.as_json(space.decisions)))
        assert SpacePartition.from_json(record, space.decisions) == partition
        leaves = partition.allowed_choices()
        inside = np.array(
            [[all(g[gene] in group for gene, group in leaf.items()) for leaf in leaves] for g in genes.tolist()]
        )
        assert (inside.sum(axis=1) == 1).all()  # total and disjoint
        assert (inside.argmax(axis=1) == partition.route(genes)).all()
        for part in range(partition.size):
            sampled_genes_NG = sample_subspace(partition, part, space, everything, np.random.default_rng(part), 3)
            assert {int(p) for p in partition.route(np.array([a.genes for a in sampled_genes_NG]))} == {part}
            assert len({space.input_shape(a) for a in sampled_genes_NG}) == 1


@pytest.mark.long
def test_sub_supernets_inherit_all_weights_and_then_are_independent() -> None:
    space = spaces()[0]
    net = space.supernet(3)
    partition = split_breadth_first([(0, [[0, 1], [2, 3, 4]]), (3, [[0, 4], [1, 2, 3]])], 4)
    assert partition.size == 4
    routed = split_supernet(space, partition, net)
    for part in routed.sub_supernets:
        for (name, tensor), (other, same) in zip(net.state_dict().items(), part.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(tensor, same)
            assert tensor.data_ptr() != same.data_ptr()
    x = torch.randn(4, 3, 16, 16)
    sampled_genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 12))
    archs = as_archs(space.id, sampled_genes_NG)
    with torch.no_grad():
        assert all(torch.equal(net(x, a), routed(x, a)) for a in archs)
        for p in routed.sub_supernets[2].parameters():
            p.mul_(0.5)
        changed = [not torch.equal(net(x, a), routed(x, a)) for a in archs]
        assert changed == (partition.route(sampled_genes_NG) == 2).tolist()
        module = routed.train().subnet(archs[0])
        torch.testing.assert_close(module(x), routed(x, archs[0]), rtol=1e-4, atol=1e-5)
    weights = {"net": routed.state_dict(), "partition": json.dumps(partition.as_json(space.decisions))}
    again = supernet_from_weights(
        space, 9, TrainState.from_bytes(TrainState(0, 0, weights).to_bytes(), "cpu").weights or {}
    )
    assert isinstance(again, RoutedSupernet)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in routed.state_dict().items())


def test_weights_of_earlier_versions_load_into_sub_supernets() -> None:
    """Their state dictionaries call the sub-supernets parts."""
    space = spaces()[0]
    partition = split_breadth_first([(0, [[0, 1], [2, 3, 4]])], 2)
    routed = RoutedSupernet(space, partition, [space.supernet(1), space.supernet(2)])
    earlier = {k.replace("sub_supernets.", "parts.", 1): v for k, v in routed.state_dict().items()}
    assert all(k.startswith("parts.") for k in earlier)
    record = json.dumps(partition.as_json(space.decisions))
    again = supernet_from_weights(space, 9, {"net": earlier, "partition": record})
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in routed.state_dict().items())


def test_an_incomplete_partition_is_refused() -> None:
    space = spaces()[0]
    good = exhaustive_split(space, [space.decisions[0].name], 5).as_json(space.decisions)
    for broken in (
        {**good, "groups": [[0], [1], [2], [3], [3]]},
        {**good, "children": [{}]},
        {**good, "decision": "edge99.operation"},
    ):
        with pytest.raises(InvalidInput):
            SpacePartition.from_json(broken, space.decisions)


# A whole search


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, problem(SPEC)))), folder


def test_a_search_ends_with_a_verified_front_and_models(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    state = fold_all(events)
    assert tuple(state.finished) == FEW_SHOT.stage_names(SPEC)
    front = front_of(SPEC, state)
    assert front.final
    assert all(p.status in ("verified", "violated") for p in front.members)
    assert len(state.exports) == 1
    split = state.finished["split"]
    assert split["subspaces"] == 2
    assert sum(split["shares"]) == pytest.approx(1.0)
    assert [m["decision"] for m in split["matching"]] == [d.name for d in problem(SPEC).space.decisions]
    assert max(split["matching"], key=lambda m: m["score"])["decision"] == split["partition"]["decision"]
    traces = [e for e in events if isinstance(e, Traced) and e.stage == "split"]
    assert len(traces) == 6
    assert all(0 <= v <= 1 for t in traces for row in t.table for v in row)
    trust = state.finished["rank_correlation"]
    assert -1 <= trust["tau_before"] <= 1
    assert -1 <= trust["tau_after"] <= 1
    assert len(trust["truth"]) == trust["networks"] == 4
    assert trust["advice"]
    trained = state.finished["train"]
    assert trained["one_shot_steps"] == trained["steps"] > 0
    assert len({tuple(trust[f"estimates_{net}"]) for net in ("before", "after", "one_shot")}) == 3
    for blob, divided in ((trained["supernet"], True), (trained["one_shot"], False)):
        weights = TrainState.from_bytes(FolderBlobs(folder).get(blob), "cpu").weights
        assert isinstance(supernet_from_weights(problem(SPEC).space, 0, weights or {}), RoutedSupernet) == divided


@pytest.mark.long
def test_a_search_that_is_cut_ends_the_same_and_repeats_one_part_at_most(
    finished_search: tuple[list[Event], Path],
) -> None:
    """Cut after a checkpoint of each stage up to ``trust``; what comes after is every search's."""
    events, folder = finished_search
    expected = fold_all(events)
    kept_at: dict[str, list[int]] = {}
    for i, e in enumerate(events):
        if isinstance(e, Checkpoint):
            kept_at.setdefault(e.stage, []).append(i)
    of_part = kept_at["train.subspace1"]
    for cut, end in (
        (kept_at["train.one_shot"][0], "train"),
        (of_part[0], "train"),
        (kept_at["rank_correlation"][0], "rank_correlation"),
    ):
        later_events = list(_until(run(folder, problem(SPEC), events[: cut + 1]), end))
        state = fold_all(later_events, fold_all(events[: cut + 1]))
        finished_results = {stage: result for stage, result in expected.finished.items() if stage in state.finished}
        assert state.finished == finished_results, f"cut after event {cut}: {events[cut]}"
    before = events[: of_part[-1] + 1]
    later_events = list(run(folder, problem(SPEC), before))
    assert not any(isinstance(e, Checkpoint) and e.stage in ("train.subspace1", "train.one_shot") for e in later_events)
    state = fold_all(later_events, fold_all(before))
    assert state.finished == expected.finished
    assert state.candidates == expected.candidates
    assert state.exports == expected.exports


def test_another_bound_on_the_same_parts_trains_nothing(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    parent = fold_all(events)
    supernet = parent.finished["train"]["supernet"]
    state = fold_all(_until(run(folder, problem(SPEC, supernet, parent)), "verify"))
    assert state.finished["train"] == {"supernet": supernet, "reused": True, "steps": 0}
    assert front_of(SPEC, state).final


@pytest.mark.long
@pytest.mark.parametrize("split", ["exhaustive", "random"])
def test_mobile_networks_are_split_as_well(split: str, tmp_path: Path) -> None:
    params = {**PARAMS, "split": split, "subspaces": 4, "rank_networks": 0, "warmup_epochs": 1}  # nothing to compare
    space = SpaceSpec(params=MOBILE)
    spec = SPEC.model_copy(update={"space": space, "strategy": StrategySpec(name="few_shot", params=params)})
    state = fold_all(_until(run(tmp_path, problem(spec)), "explore"))
    assert state.finished["train"]["subspaces"] == state.finished["split"]["subspaces"] >= 2
    assert "one_shot" not in state.finished["train"]
    assert len(state.of("search")) == 8


def test_a_hook_may_train_the_parts_elsewhere_in_any_order(tmp_path: Path) -> None:
    from dataclasses import replace

    from nas.core.ports import Resources
    from nas.engine import run_search
    from tests.support.engine import RuleDevice

    def backwards(stages: Any, p: Any, resources: Any, state: Any) -> Iterator[Event]:
        for stage in reversed(stages):
            yield from stage.run(p, replace(resources, run_parallel=None), state)

    p = problem(
        SPEC.model_copy(update={"strategy": StrategySpec(name="few_shot", params={**PARAMS, "split": "random"})})
    )
    blobs = []
    for run_parallel in (None, backwards):
        resources = Resources(FolderBlobs(tmp_path), RuleDevice(), lambda: 0.0, run_parallel=run_parallel)
        state = fold_all(_until(run_search(p, FEW_SHOT.stages(p), resources, fold_all([])), "train"))
        blobs.append(state.finished["train"]["supernet"])
    assert blobs[0] == blobs[1]


def _until(stream: Iterator[Event], stage: str) -> Iterator[Event]:
    for event in stream:
        yield event
        if event.kind == "stage_finished" and event.stage == stage:  # type: ignore[union-attr]
            return


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"decisions": ["edge99.operation"]}, "edge01.operation"),
        ({"split": "exhaustive", "subspaces": 4}, "takes 5 subspaces"),
        ({"split": "random", "decisions": ["edge01.operation"]}, "random split"),
        ({"decisions": ["edge01.operation", "edge01.operation"]}, "each once"),
        ({"rank_networks": 2}, "at least 4"),
        ({"subspaces": 1}, "subspaces"),
        ({"split": "auto", "match_again": True}, "for split gradient_matching"),
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    spec = SPEC.model_copy(update={"strategy": StrategySpec(name="few_shot", params=params)})
    with pytest.raises(InvalidSpec, match=message):
        FEW_SHOT.stages(problem(spec))


def test_it_has_a_price(tmp_path: Path) -> None:
    from tests.support.engine import estimate_cost

    cost = estimate_cost(tmp_path, problem(SPEC), FEW_SHOT.stages(problem(SPEC))[:5])
    assert [s.stage for s in cost.stages] == ["estimate", "warm_up", "split", "train", "rank_correlation"]
    assert all(s.seconds is not None and s.seconds > 0 for s in cost.stages)
    params = {**PARAMS, "compare_one_shot": False}
    training_stage = FEW_SHOT.stages(
        problem(SPEC.model_copy(update={"strategy": StrategySpec(name="few_shot", params=params)}))
    )[3]
    [without] = estimate_cost(tmp_path, problem(SPEC), (training_stage,)).stages
    assert cost.stages[3].steps == 2 * without.steps > 0


def test_what_hands_take_is_what_the_busiest_takes() -> None:
    assert [_longest([4, 1, 1, 1, 1], workers) for workers in (1, 2, 5)] == [8, 4, 4]
    assert [_longest([1, 1, 1], workers) for workers in (1, 2, 3)] == [3, 2, 1]


def test_the_recipe_is_that_of_the_warm_up_of_the_sub_supernets_and_of_ranked_networks() -> None:
    elements = {"ema_decay": 0.9, "mixup": 0.3, "cutout": 0.25, "label_smoothing": 0.05, "precision": "bfloat16"}
    strategy = StrategySpec(name="few_shot", params={**PARAMS, **elements})
    stages = FEW_SHOT.stages(problem(SPEC.model_copy(update={"strategy": strategy})))
    recipes = [s.recipe for s in stages if isinstance(s, TrainStage | SubSupernetsStage | RankCorrelationStage)]
    assert len(recipes) == 3
    for recipe in recipes:
        assert (recipe.ema_decay, recipe.mixup, recipe.label_smoothing) == (0.9, 0.3, 0.05)
        assert (recipe.augmentation.cutout, recipe.execution.precision) == (0.25, "bfloat16")


def test_an_ensemble_has_a_training_of_its_own() -> None:
    strategy = StrategySpec(name="few_shot", params={**PARAMS, "split": "ensemble", "mixup": 0.3})
    with pytest.raises(InvalidSpec, match="mixup: split ensemble has a training of its own"):
        FEW_SHOT.stages(problem(SPEC.model_copy(update={"strategy": strategy})))
