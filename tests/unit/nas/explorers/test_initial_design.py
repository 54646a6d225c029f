"""The first networks of a search, and how the explorer and its rounds follow the budget."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.arch import Floats, Genes
from nas.core.ports import History
from nas.explorers import random
from nas.explorers.automatic import BATCH, BAYESIAN_EVALUATIONS, chosen_explorer, round_sizes
from nas.explorers.initial_design import initial_design
from tests.support.explorers import feasible_volume, no_history, planted, space_of


def exact(genes_NG: Genes) -> tuple[Floats, Floats]:
    losses_NM, _ = planted(space_of())(genes_NG)
    return np.column_stack([np.full(len(genes_NG), np.nan), losses_NM[:, 1]]), np.maximum(losses_NM[:, 1] - 1.2, 0.0)


def test_the_initial_design_is_better_than_as_many_random_ones_where_size_matters() -> None:
    def evaluate(genes_NG: Genes) -> tuple[Floats, Floats]:
        losses_NM, _ = planted(space_of())(genes_NG)
        size_N = np.log(space_of().costs(genes_NG)["macs"])
        return np.column_stack([0.1 * losses_NM[:, 0] + np.exp(-(size_N - 11.5) / 2), losses_NM[:, 1]]), losses_NM[
            :, 1
        ] - 9

    def volumes(seed: int) -> tuple[float, float]:
        rng = np.random.default_rng(seed)
        chosen = initial_design(space_of(), no_history(space_of()), rng, 4, exact, np.array([1.6, 2.5]))
        chance = random.propose(space_of(), no_history(space_of()), rng, 4)
        return feasible_volume(*evaluate(chosen)), feasible_volume(*evaluate(chance))

    gains = [a - b for a, b in (volumes(seed) for seed in range(16))]
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


def test_they_meet_exact_bounds_and_neither_repeat_nor_crowd() -> None:
    rng, history = np.random.default_rng(0), no_history(space_of())
    for _ in range(6):
        genes_NG = initial_design(space_of(), history, rng, 1, exact)
        history = History(np.concatenate([history.genes_NG, genes_NG]), *planted_history(history, genes_NG))
    assert (exact(history.genes_NG)[1] == 0).all()
    assert len(np.unique(history.genes_NG, axis=0)) == 6
    assert np.ptp(history.losses_NM[:, 1]) > 0.2


def planted_history(history: History, genes_NG: Genes) -> tuple[Floats, Floats]:
    losses_NM, violation_N = planted(space_of())(genes_NG)
    return np.concatenate([history.losses_NM, losses_NM]), np.concatenate([history.violation_N, violation_N])


@pytest.mark.parametrize("evaluations", [8, 16, 33, 100, BAYESIAN_EVALUATIONS])
def test_a_small_budget_is_spent_by_the_process_in_small_rounds(evaluations: int) -> None:
    assert chosen_explorer("auto", evaluations) == "bayesian"
    sizes = round_sizes("bayesian", evaluations)
    assert sum(sizes) == evaluations
    assert max(sizes) <= BATCH
    assert len(sizes) >= 8


def test_a_large_budget_is_not_worth_the_time_of_a_process() -> None:
    assert chosen_explorer("auto", BAYESIAN_EVALUATIONS + 1) == "nsga2"
    assert chosen_explorer("bayesian", 10_000) == "bayesian"
    assert len(round_sizes("nsga2", 10_000)) == 8
