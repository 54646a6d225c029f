"""Explorers: contracts of proposals, and quality against random search on an oracle with planted weights."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.arch import Decision, Floats, Genes, check_genes, sample
from nas.core.errors import InvalidInput
from nas.core.pareto import hypervolume, non_dominated
from nas.core.ports import Explorer, History, ImageShape
from nas.explorers import bayesian, nsga2, random
from search_spaces.mobilenet_v3.space import build
from tests.support.explorers import Evaluate, explored, feasible_volume, no_history, planted, space_of

EXPLORERS = [
    pytest.param(nsga2.propose, id="nsga2"),
    pytest.param(bayesian.propose, id="bayesian"),
    pytest.param(random.propose, id="random"),
]


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_proposals_are_valid_canonical_distinct_and_new(explorer: Explorer) -> None:
    space = space_of()
    genes = explored(explorer, planted(space, bound=0.9), seed=1).genes_NG
    check_genes(space.decisions, genes)
    assert (space.canonical(genes) == genes).all()
    assert len(np.unique(genes, axis=0)) == len(genes) == 240


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_proposals_are_a_function_of_history_and_generator(explorer: Explorer) -> None:
    evaluate = planted(space_of())
    first, again, other = (explored(explorer, evaluate, seed, rounds=3) for seed in (5, 5, 6))
    assert (first.genes_NG == again.genes_NG).all()
    assert (first.genes_NG != other.genes_NG).any()


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_a_space_that_is_used_up_is_named(explorer: Explorer) -> None:
    tiny = {"preset": "digits", "resolutions": [8], "depths": [1], "kernels": [3], "expands": [2], "widths": [0.5, 1.0]}
    space = build(tiny, ImageShape(1, 8, 8, 10))
    genes = explorer(space, no_history(space), np.random.default_rng(0), 8)
    assert len(np.unique(genes, axis=0)) == 8  # two widths for each of three stages: all there are
    history = History(genes, space.features(genes)[:, :2], np.zeros(8))
    with pytest.raises(InvalidInput, match=r"exhausted: expected 1 unseen networks, found 0"):
        explorer(space, history, np.random.default_rng(0), 1)


@pytest.mark.parametrize("bound", [np.inf, 0.8])
def test_nsga2_proposals_beat_random_search_at_equal_evaluations(bound: float) -> None:
    evaluate = planted(space_of(), bound)

    def volume(explorer: Explorer, seed: int) -> float:
        history = explored(explorer, evaluate, seed)
        return feasible_volume(history.losses_NM, history.violation_N)

    nsga2_volumes = [volume(nsga2.propose, seed) for seed in range(7)]
    random_volumes = [volume(random.propose, seed) for seed in range(7)]
    assert np.median(nsga2_volumes) > 1.03 * np.median(random_volumes)
    assert sum(a > b for a, b in zip(nsga2_volumes, random_volumes, strict=True)) >= 6


def run(evaluate: Evaluate, seed: int, population: int = 60, generations: int = 39) -> nsga2.Population:
    space, rng = space_of(), np.random.default_rng(seed)
    return nsga2.minimise(space.decisions, space.canonical, evaluate, rng, population, generations)


@pytest.mark.parametrize("bound", [np.inf, 0.7])
def test_minimise_beats_random_search_at_equal_evaluations(bound: float) -> None:
    space = space_of()
    evaluate = planted(space, bound)
    nsga2_volumes, random_volumes = [], []
    for seed in range(7):
        front = run(evaluate, seed)
        nsga2_volumes.append(feasible_volume(front.losses_NM, front.violation_N))
        genes = space.canonical(sample(space.decisions, np.random.default_rng(seed), 60 * 40))
        random_volumes.append(feasible_volume(*evaluate(genes)))
    assert np.median(nsga2_volumes) > 1.05 * np.median(random_volumes)


@pytest.mark.long
def test_minimise_is_no_worse_than_another_library_at_equal_evaluations() -> None:
    from benchmarks.explorer import contest, hwnas_nsga2, planted_latency, pymoo_documented, pymoo_same_operators

    problem = contest(space_of(), planted_latency(space_of()))
    volumes = {
        run: np.median([run(problem, seed, 48, 30).hypervolume for seed in range(5)])
        for run in (hwnas_nsga2, pymoo_documented, pymoo_same_operators)
    }
    assert volumes[hwnas_nsga2] >= max(volumes.values())


def test_minimise_evaluates_no_network_twice() -> None:
    evaluated: list[Genes] = []
    evaluate = planted(space_of())

    def watched(genes_NG: Genes) -> tuple[Floats, Floats]:
        evaluated.append(genes_NG)
        return evaluate(genes_NG)

    run(watched, seed=0, population=50, generations=30)
    everything = np.concatenate(evaluated)
    assert len(np.unique(everything, axis=0)) == len(everything)
    assert 50 * 30 <= len(everything) <= 50 * 31


def test_minimise_returns_a_front_of_distinct_feasible_canonical_networks() -> None:
    space = space_of()
    evaluate = planted(space, bound=0.7)
    front = run(evaluate, seed=0)
    losses, violation = evaluate(front.genes_NG)
    assert losses == pytest.approx(front.losses_NM)
    assert (violation == 0).all()
    assert non_dominated(losses).all()
    assert (space.canonical(front.genes_NG) == front.genes_NG).all()
    assert len(np.unique(front.genes_NG, axis=0)) == len(front) >= 10


def test_minimise_returns_the_front_of_everything_it_evaluated() -> None:
    evaluate = planted(space_of(), bound=0.7)
    evaluated: list[Floats] = []

    def watched(genes_NG: Genes) -> tuple[Floats, Floats]:
        losses, violation = evaluate(genes_NG)
        evaluated.append(losses[violation <= 0])
        return losses, violation

    front = run(watched, seed=3, population=30, generations=10)
    everything = np.unique(np.concatenate(evaluated), axis=0)
    assert len(evaluated) == 11
    expected = everything[non_dominated(everything)]
    assert (np.unique(front.losses_NM, axis=0) == expected).all()


def test_minimise_repeats_with_its_generator() -> None:
    evaluate = planted(space_of())
    first, again, other = (run(evaluate, seed, generations=5).genes_NG for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_minimise_finds_the_whole_front_of_a_small_space() -> None:
    decisions = tuple(Decision(f"d{i}", tuple(range(3))) for i in range(6))
    weights = np.array([[3.0, 1.0, 4.0, 1.5, 9.0, 2.6], [-5.0, -3.0, -5.8, -9.7, -9.3, -2.3]])

    def evaluate(genes_NG: Genes) -> tuple[Floats, Floats]:
        losses = (genes_NG + 0.1 * genes_NG**2) @ weights.T
        return losses, np.maximum(losses[:, 0] - 30.0, 0.0)

    everything = np.array(list(np.ndindex(*[3] * 6)))
    losses, violation = evaluate(everything)
    feasible = losses[violation == 0]
    truth = np.unique(feasible[non_dominated(feasible)], axis=0)
    front = nsga2.minimise(decisions, lambda g: g, evaluate, np.random.default_rng(0), 60, 40)
    assert np.unique(front.losses_NM, axis=0).tolist() == truth.tolist()


def test_nothing_feasible_gives_the_least_violating_network() -> None:
    space = space_of()
    smallest = float(space.costs(np.zeros((1, len(space.decisions)), dtype=np.int64))["macs"][0])

    def evaluate(genes_NG: Genes) -> tuple[Floats, Floats]:
        macs = space.costs(genes_NG)["macs"]
        return np.stack([macs, -macs], axis=1), macs / smallest - 0.5

    front = run(evaluate, seed=0)
    assert len(front) == 1
    assert front.violation_N[0] == pytest.approx(0.5, abs=0.05)  # close to the smallest network of all


def test_a_good_start_is_kept() -> None:
    space = space_of()
    evaluate = planted(space, bound=0.7)
    good = run(evaluate, seed=0)
    rng = np.random.default_rng(9)
    again = nsga2.minimise(space.decisions, space.canonical, evaluate, rng, 200, 1, start=good.genes_NG)
    assert feasible_volume(again.losses_NM, again.violation_N) >= feasible_volume(good.losses_NM, good.violation_N)


def test_ranks_are_repeated_fronts_and_infeasible_come_last_by_violation() -> None:
    rng = np.random.default_rng(0)
    losses, violation = rng.random((60, 2)), np.maximum(rng.normal(size=60), 0.0)
    ranks, crowding = nsga2.rank_and_crowd(losses, violation, 60)
    is_feasible = violation <= 0
    for rank in range(int(ranks[is_feasible].max()) + 1):
        rows = np.flatnonzero(is_feasible)
        peeled = rows[non_dominated(losses[rows])]
        assert sorted(peeled) == np.flatnonzero(ranks == rank).tolist()
        is_feasible[peeled] = False
    bad = np.flatnonzero(violation > 0)
    assert ranks[bad].min() > ranks[violation <= 0].max()
    assert (np.argsort(ranks[bad]) == np.argsort(violation[bad])).all()
    assert (crowding[violation <= 0] > 0).all()


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_a_small_space_is_proposed_to_its_last_network(explorer: Explorer) -> None:
    space = build({"preset": "digits", "resolutions": [8], "depths": [1]}, ImageShape(1, 8, 8, 10))
    every = np.unique(space.canonical(np.array(list(np.ndindex(*[len(d.choices) for d in space.decisions])))), axis=0)
    evaluated_genes, missing = every[:-3], every[-3:]
    history = History(evaluated_genes, space.features(evaluated_genes)[:, :2], np.zeros(len(evaluated_genes)))
    proposals = explorer(space, history, np.random.default_rng(0), 3)
    assert np.unique(proposals, axis=0).tolist() == missing.tolist()


def test_three_objectives_are_ranked_and_searched() -> None:
    space = space_of()
    evaluate = planted(space)

    def three(genes_NG: Genes) -> tuple[Floats, Floats]:
        losses, violation = evaluate(genes_NG)
        macs = space.costs(genes_NG)["macs"]
        return np.column_stack([losses, macs / 1e6]), violation

    def volume(losses_NM: Floats) -> float:
        return hypervolume(losses_NM, np.array([1.6, 2.5, 10.0]))

    nsga2_volumes, random_volumes = [], []
    for seed in range(5):
        front = run(three, seed)
        assert non_dominated(front.losses_NM).all()
        nsga2_volumes.append(volume(front.losses_NM))
        random_volumes.append(volume(three(sample(space.decisions, np.random.default_rng(seed), 60 * 40))[0]))
    assert np.median(nsga2_volumes) > 1.02 * np.median(random_volumes)


def test_crowding_distance_by_hand() -> None:
    losses = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [2.0, 1.0]])
    assert nsga2.crowding_distance(losses).tolist() == [np.inf, 2 / 4 + 3 / 4, np.inf, 3 / 4 + 2 / 4]
    assert nsga2.crowding_distance(np.ones((2, 2))).tolist() == [np.inf, np.inf]
