"""The first networks of a search, and how the explorer and its rounds follow the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._cli import ROOT
from nas.core.arch import Floats, Genes
from nas.core.ports import History
from nas.explorers.automatic import BATCH, BAYESIAN_EVALUATIONS, chosen_explorer, round_sizes
from nas.explorers.initial_design import initial_design
from tests.support.explorers import no_history, planted, space_of

TABLE = Path(ROOT.parent, "shared", "data", "nb201.npz")


def exact(genes_NG: Genes) -> tuple[Floats, Floats]:
    losses_NM, _ = planted(space_of())(genes_NG)
    return np.column_stack([np.full(len(genes_NG), np.nan), losses_NM[:, 1]]), np.maximum(losses_NM[:, 1] - 1.2, 0.0)


@pytest.mark.skipif(not TABLE.exists(), reason=f"needs the table {TABLE}")
def test_few_evaluations_are_well_spent_on_the_table_of_trained_cells() -> None:
    """Without a model, and with one after it."""
    from benchmarks._accuracy_table import by_chance, by_model, hypervolume_ratio, read

    table = read(TABLE.parents[1], "cifar10")
    for evaluations in (4, 8):
        gains = [
            hypervolume_ratio(table, by_model(table, seed, evaluations, cost_K), "raspi4")
            - hypervolume_ratio(table, by_chance(table, seed, evaluations, cost_K), "raspi4")
            for seed in range(12)
            for cost_K in [table.cost("raspi4")]
        ]
        assert np.mean(gains) > np.std(gains) / np.sqrt(len(gains)), evaluations


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
