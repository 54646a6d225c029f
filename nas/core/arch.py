"""Decisions, architectures, and what can be done with them in every search space.

A population is an integer matrix ``genes_NG``: N architectures of G genes; gene g indexes ``decisions[g].choices``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidInput

Genes = NDArray[np.int64]
Floats = NDArray[np.float64]
Choice = int | float | str

LISTABLE = 100_000  # gene vectors; a space up to this size can be gone through to its last network


@dataclass(frozen=True)
class Decision:
    """One thing to choose: a name and its choices, smallest network first where choices have an order."""

    name: str
    choices: tuple[Choice, ...]

    @property
    def axis(self) -> str:
        """The elastic dimension this decision belongs to: the last part of its dotted name, such as ``kernel``."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Arch:
    """An architecture as pure data. Canonical architectures that are equal networks share an ``id``."""

    space: str
    genes: tuple[int, ...]

    @cached_property
    def id(self) -> str:
        """Content id: 12 hexadecimal digits, stable over processes and versions."""
        text = f"{self.space}:{','.join(map(str, self.genes))}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def choice_counts(decisions: Sequence[Decision]) -> NDArray[np.int64]:
    """Number of choices per decision, shape (G,)."""
    return np.array([len(d.choices) for d in decisions], dtype=np.int64)


def space_size(decisions: Sequence[Decision]) -> int:
    """Number of gene vectors (an upper bound of the number of distinct networks)."""
    return prod(len(d.choices) for d in decisions)


def every(decisions: Sequence[Decision]) -> Genes:
    """All gene vectors, shape (space_size, G); for spaces of at most ``LISTABLE``."""
    counts = choice_counts(decisions)
    return np.stack(np.unravel_index(np.arange(space_size(decisions)), counts), axis=1).astype(np.int64)


def check_genes(decisions: Sequence[Decision], genes_NG: Genes) -> None:
    """Raises InvalidInput unless every gene of ``genes_NG`` indexes a choice of its decision."""
    if genes_NG.ndim != 2 or genes_NG.shape[1] != len(decisions):
        raise InvalidInput(f"expected genes of shape (N, {len(decisions)}), got {genes_NG.shape}")
    bad = (genes_NG < 0) | (genes_NG >= choice_counts(decisions))
    if bad.any():
        n, g = np.argwhere(bad)[0]
        d = decisions[g]
        raise InvalidInput(
            f"architecture {n}: gene {g} ({d.name}) is {genes_NG[n, g]}, expected 0 to {len(d.choices) - 1}"
        )


def sample(decisions: Sequence[Decision], rng: np.random.Generator, n: int) -> Genes:
    """``n`` gene vectors, each gene uniform over its choices, shape (n, G)."""
    counts = choice_counts(decisions)
    return rng.integers(0, counts, size=(n, len(counts)), dtype=np.int64)


def mutate(decisions: Sequence[Decision], genes_NG: Genes, rng: np.random.Generator, rate: float) -> Genes:
    """Each gene is redrawn among its *other* choices with probability ``rate``; at least one per row."""
    counts = choice_counts(decisions)
    hit = rng.random(genes_NG.shape) < rate
    free = np.flatnonzero(counts > 1)
    if free.size:
        rows = np.flatnonzero(~(hit & (counts > 1)).any(axis=1))
        hit[rows, free[rng.integers(0, free.size, size=rows.size)]] = True
    step = rng.integers(1, np.maximum(counts, 2), size=genes_NG.shape)
    return np.where(hit & (counts > 1), (genes_NG + step) % counts, genes_NG)


def crossover(first_NG: Genes, second_NG: Genes, rng: np.random.Generator) -> Genes:
    """Uniform crossover: each gene from either parent with probability one half."""
    return np.where(rng.random(first_NG.shape) < 0.5, first_NG, second_NG)


def neighbours(decisions: Sequence[Decision], genes_G: Sequence[int]) -> Genes:
    """Every gene vector that differs in exactly one gene, shape (sum(counts - 1), G)."""
    base = np.asarray(genes_G, dtype=np.int64)
    rows = []
    for g, decision in enumerate(decisions):
        for choice in range(len(decision.choices)):
            if choice != base[g]:
                row = base.copy()
                row[g] = choice
                rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, len(decisions))


def one_hot(decisions: Sequence[Decision], genes_NG: Genes) -> Floats:
    """One-hot encoding, shape (N, sum of choice counts), decisions in order."""
    counts = choice_counts(decisions)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    out = np.zeros((len(genes_NG), int(counts.sum())))
    out[np.arange(len(genes_NG))[:, None], starts + genes_NG] = 1.0
    return out


def as_archs(space: str, genes_NG: Genes) -> list[Arch]:
    """The rows of a gene matrix as architectures."""
    return [Arch(space, tuple(int(g) for g in row)) for row in genes_NG]


def as_genes(archs: Sequence[Arch]) -> Genes:
    """Architectures as a gene matrix, shape (N, G)."""
    return np.array([a.genes for a in archs], dtype=np.int64)
