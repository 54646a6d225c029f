"""Decisions, gene matrices and what is done with them in every space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.core.arch import (
    Arch,
    Decision,
    as_archs,
    as_genes,
    check_genes,
    choice_counts,
    crossover,
    mutate,
    neighbours,
    one_hot,
    sample,
    space_size,
)
from nas.core.errors import InvalidInput

decisions_of = st.lists(st.integers(1, 5), min_size=1, max_size=8).map(
    lambda counts: tuple(Decision(f"part{i}.axis", tuple(range(n))) for i, n in enumerate(counts))
)
seeds = st.integers(0, 2**32 - 1)


@given(decisions_of, seeds, st.integers(0, 20))
def test_samples_are_valid_and_repeatable(decisions: tuple[Decision, ...], seed: int, n: int) -> None:
    genes = sample(decisions, np.random.default_rng(seed), n)
    check_genes(decisions, genes)
    assert genes.shape == (n, len(decisions))
    assert (sample(decisions, np.random.default_rng(seed), n) == genes).all()


def test_samples_are_uniform() -> None:
    decisions = (Decision("a", (1, 2)), Decision("b", (1, 2, 3, 4)))
    genes = sample(decisions, np.random.default_rng(0), 20_000)
    assert np.bincount(genes[:, 0]) / 20_000 == pytest.approx([0.5] * 2, abs=0.02)
    assert np.bincount(genes[:, 1]) / 20_000 == pytest.approx([0.25] * 4, abs=0.02)


@given(decisions_of, seeds, st.floats(0, 1))
def test_mutation_always_changes_something_that_can_change(
    decisions: tuple[Decision, ...], seed: int, rate: float
) -> None:
    rng = np.random.default_rng(seed)
    genes = sample(decisions, rng, 16)
    mutants = mutate(decisions, genes, rng, rate)
    check_genes(decisions, mutants)
    changed = (mutants != genes).any(axis=1)
    assert changed.all() if space_size(decisions) > 1 else not changed.any()


def test_mutation_keeps_its_rate_and_is_uniform_over_the_other_choices() -> None:
    decisions = tuple(Decision(f"d{i}", tuple(range(4))) for i in range(40))
    genes = np.zeros((2_000, 40), dtype=np.int64)
    mutants = mutate(decisions, genes, np.random.default_rng(0), 0.2)
    shares = np.bincount(mutants.ravel(), minlength=4) / mutants.size
    assert shares == pytest.approx([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3], abs=0.01)


@given(decisions_of, seeds)
def test_children_take_every_gene_from_a_parent(decisions: tuple[Decision, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = sample(decisions, rng, 12), sample(decisions, rng, 12)
    child = crossover(first, second, rng)
    assert ((child == first) | (child == second)).all()
    assert (crossover(first, first, rng) == first).all()


@given(decisions_of, seeds)
def test_neighbours_are_all_vectors_one_gene_away(decisions: tuple[Decision, ...], seed: int) -> None:
    base = sample(decisions, np.random.default_rng(seed), 1)[0]
    around = neighbours(decisions, base)
    check_genes(decisions, around)
    assert len(around) == (choice_counts(decisions) - 1).sum()
    assert ((around != base).sum(axis=1) == 1).all()
    assert len({tuple(row) for row in around}) == len(around)


@given(decisions_of, seeds)
def test_one_hot_can_be_read_back(decisions: tuple[Decision, ...], seed: int) -> None:
    genes = sample(decisions, np.random.default_rng(seed), 9)
    encoded = one_hot(decisions, genes)
    assert (encoded.sum(axis=1) == len(decisions)).all()
    parts = np.split(encoded, np.cumsum(choice_counts(decisions))[:-1], axis=1)
    assert (np.stack([p.argmax(axis=1) for p in parts], axis=1) == genes).all()


@given(decisions_of, seeds)
def test_archs_and_genes_are_inverse(decisions: tuple[Decision, ...], seed: int) -> None:
    genes = sample(decisions, np.random.default_rng(seed), 5)
    archs = as_archs("s", genes)
    assert (as_genes(archs) == genes).all()
    assert len({a.id for a in archs}) == len({a.genes for a in archs})


def test_an_id_is_stable_and_names_space_and_genes() -> None:
    arch = Arch("space-1", (0, 2, 1))
    assert arch.id == "669cc80f7bf8"
    assert len({arch.id, Arch("space-2", (0, 2, 1)).id, Arch("space-1", (0, 21)).id}) == 3


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([[0, 3]], r"architecture 0: gene 1 \(b\) is 3, expected 0 to 2"),
        ([[0, 0], [-1, 0]], r"architecture 1: gene 0 \(a\) is -1, expected 0 to 1"),
        ([[0, 0, 0]], r"expected genes of shape \(N, 2\), got \(1, 3\)"),
        ([0, 0], r"expected genes of shape \(N, 2\)"),
    ],
)
def test_wrong_genes_are_named(genes: list[object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_genes((Decision("a", (1, 2)), Decision("b", (1, 2, 3))), np.array(genes))


def test_an_axis_is_the_last_part_of_a_name() -> None:
    assert Decision("stage1.block2.kernel", (3, 5)).axis == "kernel"
    assert Decision("resolution", (8,)).axis == "resolution"
