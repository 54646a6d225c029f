"""The Bayesian explorer: what it believes, what it expects to gain, and that it finds more than random search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._cli import ROOT
from nas.core.arch import Floats, Genes, sample
from nas.core.pareto import hypervolume, non_dominated
from nas.core.ports import Explorer, History, ImageShape
from nas.explorers import bayesian, nsga2, random
from search_spaces.nas_bench_201.cell import from_string
from search_spaces.nas_bench_201.space import NasBench201, SpaceParams
from tests.support.explorers import explored, feasible_volume, no_history, planted, space_of

TABLE = Path(ROOT.parent, "shared", "data", "nb201.npz")


def volumes(explorer: Explorer, bound: float, rounds: int, n: int, seeds: int = 4) -> Floats:
    evaluate = planted(space_of(), bound)
    histories = [explored(explorer, evaluate, seed, rounds, n) for seed in range(seeds)]
    return np.array([feasible_volume(h.losses_NM, h.violation_N) for h in histories])


@pytest.mark.parametrize("bound", [np.inf, 0.8])
def test_it_beats_random_search_and_nsga2_within_few_evaluations(bound: float) -> None:
    bayesian_volumes, chance, bred = (volumes(e.propose, bound, rounds=4, n=5) for e in (bayesian, random, nsga2))
    assert np.mean(bayesian_volumes) > 1.05 * np.mean(chance)
    assert np.mean(bayesian_volumes) > 1.05 * np.mean(bred)


def history_of(n: int, noise: float = 0.0) -> tuple[History, Floats]:
    """Random networks with noisy first losses, and the true ones."""
    rng = np.random.default_rng(3)
    genes_NG = random.propose(space_of(), no_history(space_of()), rng, n)
    losses_NM, violation_N = planted(space_of())(genes_NG)
    noisy_NM = losses_NM + np.array([noise, 0.0]) * rng.normal(size=losses_NM.shape)
    return History(genes_NG, noisy_NM, violation_N), losses_NM


def exact_latency(genes_NG: Genes) -> tuple[Floats, Floats]:
    losses_NM, _ = planted(space_of())(genes_NG)
    return np.column_stack([np.full(len(genes_NG), np.nan), losses_NM[:, 1]]), np.maximum(losses_NM[:, 1] - 0.8, 0.0)


def test_what_it_believes_is_nearer_to_the_truth_than_noisy_evaluations() -> None:
    history, truth = history_of(120, noise=0.1)
    losses = bayesian._posterior_mean(bayesian.ObjectiveModels.fit(space_of(), history, exact_latency))
    assert (losses[:, 1] == history.losses_NM[:, 1]).all()  # exact losses are not modelled
    error = np.abs(losses[:, 0] - truth[:, 0]).mean()
    assert error < 0.7 * np.abs(history.losses_NM[:, 0] - truth[:, 0]).mean()


def test_every_proposal_meets_exact_bounds() -> None:
    history, _ = history_of(30)
    genes_NG = bayesian.propose(space_of(), history, np.random.default_rng(0), 12, exact_latency)
    assert (exact_latency(genes_NG)[1] == 0).all()
    assert (
        np.mean(exact_latency(sample(space_of().decisions, np.random.default_rng(0), 200))[1] == 0) < 0.8
    )  # not of itself


def test_the_expected_gain_is_the_mean_gain_of_drawn_outcomes() -> None:
    history, _ = history_of(60)
    models = bayesian.ObjectiveModels.fit(space_of(), history, exact_latency)
    process = models.processes[0]
    genes_NG = sample(space_of().decisions, np.random.default_rng(8), 300)
    posterior = bayesian._PoolPosterior(process, models.encode(genes_NG))
    cost_K = exact_latency(genes_NG)[0][:, 1]
    evaluated = history.losses_NM[:, ::-1]
    gain_K = bayesian._volume_gain(posterior, np.arange(300), cost_K, evaluated)
    worst = evaluated.max(axis=0)
    reference = worst + 0.1 * (worst - evaluated.min(axis=0)) + 1e-9
    front, before = evaluated[non_dominated(evaluated)], hypervolume(evaluated, reference)
    draws = np.random.default_rng(9).normal(size=200)
    top = np.argsort(-gain_K)[:20]
    gains = []
    for k in top:
        losses = process.unwarp(posterior.mean_U[k] + posterior.sd()[k] * draws)
        gains.append(np.mean([hypervolume(np.vstack([front, [cost_K[k], y]]), reference) for y in losses]) - before)
    assert gain_K[top] == pytest.approx(np.array(gains), rel=0.35, abs=0.02 * max(gains))
    assert np.corrcoef(gain_K[top], gains)[0, 1] > 0.95


def test_a_batch_is_not_one_guess_many_times_over() -> None:
    history, _ = history_of(60)
    genes_NG = bayesian.propose(space_of(), history, np.random.default_rng(0), 12, exact_latency)
    latency = exact_latency(genes_NG)[0][:, 1]
    assert np.ptp(latency) > 0.15
    assert len(np.unique(genes_NG, axis=0)) == 12


def cells() -> NasBench201:
    return NasBench201(SpaceParams(), ImageShape(3, 32, 32, 10))


def test_cells_that_are_equal_as_graphs_have_equal_features() -> None:
    twins = [  # a 3x3 convolution to node 1 or node 2, then an identity; the rest is nothing
        "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
        "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|",
        "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
    ]
    a, b, other = cells().accuracy_features(np.array([from_string(t) for t in twins]))
    assert (a == b).all()
    assert (a != other).any()


@pytest.mark.skipif(not TABLE.exists(), reason=f"needs the table {TABLE}")
def test_on_the_table_of_trained_cells_it_chooses_better_than_random_search() -> None:
    from benchmarks._accuracy_table import by_chance, by_model, chosen_accuracy, read

    table = read(TABLE.parents[1], "cifar100")
    accuracies, chance = (
        [chosen_accuracy(table, search(table, seed, 100, None)) for seed in range(3)]
        for search in (by_model, by_chance)
    )
    assert np.mean(accuracies) > np.mean(chance) + 0.5
