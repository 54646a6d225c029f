"""The continuous relaxation of a chain of blocks, derived from the chain: one row for each block that can be chosen.

The columns of a row are the combinations of choices that only its block depends on, such as kernel and expansion, and
``skip`` for a block that need not exist (ProxylessNAS: Cai et al., ICLR 2019; FBNet: Wu et al., CVPR 2019). Decisions
that several blocks share, such as resolution and width, cannot be mixed block by block: a relaxation holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Decision, Floats, Genes
from nas.core.layers import INPUT
from nas.core.relaxation import Relaxation
from nas.spaces.block_chain import BlockChain, ChainBlock

SKIP = "skip"


@dataclass(frozen=True)
class ChainRow:
    """A block that can be chosen. ``choices``: of its genes, by label; the one of label ``SKIP``, if there is one,
    leaves the block out. ``required`` as in ``ChainBlock``. ``ends``: without this block, those behind it that need the
    same gene do not exist either, so that its row has a column ``SKIP``."""

    block: str
    genes: tuple[int, ...]
    choices: dict[str, tuple[int, ...]]
    required: tuple[int, int] | None
    ends: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Of its columns."""
        return (*self.choices, SKIP) if self.ends else tuple(self.choices)


class ChainRelaxation:
    """``held_G``: genes of all decisions that no row chooses."""

    def __init__(
        self,
        chain: BlockChain,
        decisions: Sequence[Decision],
        held_G: Sequence[int],
        canonical: Callable[[Genes], Genes],
    ) -> None:
        self._held_G, self._canonical = np.array(held_G, dtype=np.int64), canonical
        self.rows = _rows(chain, decisions)
        labels = [label for label in dict.fromkeys(x for row in self.rows for x in row.labels) if label != SKIP]
        operations = (*labels, SKIP)
        self.relaxation = Relaxation(
            edges=tuple(row.block for row in self.rows),
            operations=operations,
            nodes=tuple(range(len(self.rows))),
            none=None,
            skip=len(labels),
            parameter_free=(len(labels),),
            available=tuple(tuple(label in row.labels for label in operations) for row in self.rows),
            held=tuple((g, int(choice)) for g, choice in enumerate(held_G) if g not in _chosen(self.rows)),
        )
        self._choices_by_row = [_choices_by_column(row, operations) for row in self.rows]

    def discretise(self, scores_EO: Floats) -> Genes:
        """The canonical network with the highest score in each row, shape (G,). A stage ends before the first of its
        blocks whose best operation is ``SKIP``."""
        genes: Genes = self.discretise_all(scores_EO[None])[0]
        return genes

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """``discretise`` of N tables, shape (N, G)."""
        best_NE = np.where(self.relaxation.mask, scores_NEO, -np.inf).argmax(axis=2)
        genes_NG = np.tile(self._held_G, (len(best_NE), 1))
        ended: dict[int, NDArray[np.bool_]] = {}
        for row, chosen_OK, best_N in zip(self.rows, self._choices_by_row, best_NE.T, strict=True):
            exists_N = np.ones(len(best_N), dtype=bool)
            if row.required is not None:
                gene, level = row.required
                skipped_N = (best_N == self.relaxation.skip) if row.ends else np.zeros_like(exists_N)
                ended[gene] = ended.get(gene, np.zeros_like(exists_N)) | skipped_N
                exists_N = ~ended[gene]
                genes_NG[exists_N, gene] = level
            genes_NG[np.ix_(exists_N, np.array(row.genes, dtype=np.int64))] = chosen_OK[best_N[exists_N]]
        return self._canonical(genes_NG)

    def table(self, genes_G: Genes) -> Floats:
        """A network as weights 0 and 1, shape (E, O). Blocks behind one that was left out have rows of zeros."""
        table_EO = np.zeros(self.relaxation.shape)
        reached: dict[int, int] = {}  # the level that the blocks before need
        for e, (row, chosen_OK) in enumerate(zip(self.rows, self._choices_by_row, strict=True)):
            if row.required is not None and genes_G[row.required[0]] < row.required[1]:
                gene, level = row.required
                table_EO[e, self.relaxation.skip] = float(row.ends and genes_G[gene] >= reached.get(gene, 0))
                reached[gene] = level
                continue
            if row.required is not None:
                reached[row.required[0]] = row.required[1]
            same_O = (chosen_OK == genes_G[list(row.genes)]).all(axis=1) & self.relaxation.mask[e]
            same_O[self.relaxation.skip] &= not row.ends
            table_EO[e, same_O.argmax()] = float(same_O.any())
        return table_EO

    def by_operation(self) -> Genes:
        """For each column but ``SKIP`` the deepest network with it in every block that has it, shape (O - 1, G)."""
        scores_NEO = np.tile(np.arange(self.relaxation.shape[1], 0.0, -1.0), (self.relaxation.skip, len(self.rows), 1))
        for o in range(self.relaxation.skip):
            scores_NEO[o, :, o] += self.relaxation.shape[1]
        return self.discretise_all(scores_NEO)


def _rows(chain: BlockChain, decisions: Sequence[Decision]) -> list[ChainRow]:
    readers = [g for block in chain.blocks for g in block.genes]
    levels = {block.required[0] for block in chain.blocks if block.required is not None}
    rows: list[ChainRow] = []
    reached: dict[int, int] = {}
    for block in chain.blocks:
        own = tuple(g for g in block.genes if readers.count(g) == 1 and g not in levels)
        ends = block.required is not None and block.required[1] > reached.get(block.required[0], 0)
        if block.required is not None:
            reached[block.required[0]] = block.required[1]
        if own or ends:
            rows.append(ChainRow(block.name, own, _choices(block, own, decisions), block.required, ends))
    return rows


def _chosen(rows: Sequence[ChainRow]) -> set[int]:
    """The genes that the operations of rows decide."""
    return {g for row in rows for g in (*row.genes, *(row.required[:1] if row.required else ()))}


def _choices(block: ChainBlock, own: Sequence[int], decisions: Sequence[Decision]) -> dict[str, tuple[int, ...]]:
    """Combinations of the choices of a block's own genes, by label; one without nodes is ``SKIP``."""
    out: dict[str, tuple[int, ...]] = {}
    for combination in product(*(range(len(decisions[g].choices)) for g in own)):
        chosen = dict(zip(own, combination, strict=True))
        nodes = block.nodes(block.name, INPUT, tuple(chosen.get(g, 0) for g in block.genes))
        out[_label(own, combination, decisions) if nodes else SKIP] = combination
    return out


def _label(own: Sequence[int], combination: Sequence[int], decisions: Sequence[Decision]) -> str:
    """Such as ``kernel 3 expand 6``; the choice alone where it is text."""
    choices = [(decisions[g], decisions[g].choices[c]) for g, c in zip(own, combination, strict=True)]
    return " ".join(c if isinstance(c, str) else f"{d.axis} {c:g}" for d, c in choices) or "block"


def _choices_by_column(row: ChainRow, operations: Sequence[str]) -> NDArray[np.int64]:
    """The choices of a row's genes by column, shape (O, genes); zeros for columns that it lacks."""
    none = (0,) * len(row.genes)
    return np.array([row.choices.get(label, none) for label in operations], dtype=np.int64).reshape(len(operations), -1)
