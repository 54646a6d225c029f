"""Spaces whose networks are chains of blocks, each of which depends on a few genes: costs and features by tables.

Costs and features are sums over blocks (activation memory is their maximum, since a single tensor lives between two
blocks), so each block has a table over its genes, computed once from its typed layers; a population is summed by
indexing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Decision, Floats, Genes, choice_counts
from nas.core.graph import Graph, GraphEncoding
from nas.core.layers import INPUT
from nas.core.network import NetworkNode, layers_of
from nas.spaces.activation_memory import graph_peak
from nas.spaces.costs import COSTS, FLOAT_BYTES, part_counts
from nas.spaces.exported_graph import lower
from nas.spaces.layer_work import WORK, work_by_kind

NodeFactory = Callable[[str, str, tuple[int, ...]], list[NetworkNode]]
_PROBES = 512  # random architectures that show which features vary


@dataclass(frozen=True)
class ChainBlock:
    """A block. ``nodes(name, source, choices)`` makes its nodes, which read the node ``source``, from the choices of
    the genes at positions ``genes``; blocks of one function differ in names only. ``required``: the block exists
    where the gene at the first position is at least the second number; None: always."""

    name: str
    genes: tuple[int, ...]
    nodes: NodeFactory
    required: tuple[int, int] | None = None


class BlockChain:
    """Networks of ``blocks`` in their order. The first block reads the image and ends where the others begin; first and
    last block always exist. ``kinds``: kinds of layers that features distinguish (``nas.spaces.layer_work``). Each
    block between them has exactly one layer whose kind begins with one of ``marks``, by which graphs know it."""

    def __init__(
        self,
        decisions: Sequence[Decision],
        blocks: Sequence[ChainBlock],
        kinds: Sequence[str],
        image_channels: int,
        marks: Sequence[str] = ("depthwise",),
    ) -> None:
        self.blocks, self.kinds, self.marks = tuple(blocks), tuple(kinds), tuple(marks)
        self._counts = choice_counts(decisions)
        self._image_channels = image_channels
        self._cache: dict[tuple[int, str, tuple[int, ...]], list[NetworkNode]] = {}

    def nodes(self, genes: Sequence[int]) -> tuple[NetworkNode, ...]:
        """The nodes of one network."""
        out: list[NetworkNode] = []
        source = INPUT
        for i, block in enumerate(self.blocks):
            if block.required is None or genes[block.required[0]] >= block.required[1]:
                key = i, source, tuple(genes[g] for g in block.genes)
                if key not in self._cache:
                    self._cache[key] = block.nodes(block.name, source, key[2])
                out += self._cache[key]
                source = out[-1].name
        return tuple(out)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        sums_N3, peak_N = np.zeros((len(genes_NG), 3)), np.zeros(len(genes_NG))
        for rows_N4 in self._rows(genes_NG, self._cost_tables):
            sums_N3 += rows_N4[:, :3]
            np.maximum(peak_N, rows_N4[:, 3], out=peak_N)
        return dict(zip(COSTS, [*sums_N3.T, peak_N], strict=True))

    def features(self, genes_NG: Genes) -> Floats:
        """Work by kind of layer, without the columns that are equal for all networks, shape (N, F)."""
        return self._total_work(genes_NG)[:, self._varying]

    @cached_property
    def graph_encoding(self) -> GraphEncoding:
        """The blocks as places, each of which holds its work by kind of layer. A block exists if it has a layer of
        ``marks``; the first and the last always do."""
        names = [f"{kind}.{work}" for kind in self.kinds for work in WORK]
        varying = self._varying.tolist()
        marks = [float(names[f].startswith(self.marks) and names[f].endswith(".layers")) for f in varying]
        places = range(len(self.blocks))
        always = (places[0], places[-1])
        graph = Graph(
            tuple(block.name for block in self.blocks),
            tuple(names[f] for f in varying),
            tuple((i, i + 1) for i in places[:-1]),
            tuple(v for v in places for _ in varying),
            tuple(o for _ in places for o in range(len(varying))),
            tuple(0.0 if v in always else mark for v in places for mark in marks),
        )
        return GraphEncoding(graph, self._graph_columns)

    def _graph_columns(self, genes_NG: Genes) -> Floats:
        return np.hstack([rows[:, self._varying] for rows in self._rows(genes_NG, self._work_tables)])

    def _total_work(self, genes_NG: Genes) -> Floats:
        total: Floats = sum(self._rows(genes_NG, self._work_tables), np.zeros(len(self.kinds) * len(WORK)))
        return total

    def _rows(self, genes_NG: Genes, tables: Sequence[Floats]) -> Iterator[Floats]:
        """The rows of N networks in the table of each block, zeros where it does not exist."""
        for block, table in zip(self.blocks, tables, strict=True):
            rows = np.broadcast_to(table[tuple(genes_NG[:, g] for g in block.genes)], (len(genes_NG), table.shape[-1]))
            if block.required is not None:
                gene, least = block.required
                rows = np.where((genes_NG[:, gene] >= least)[:, None], rows, 0.0)
            yield rows

    def _tables(self, values: Callable[[Sequence[NetworkNode], bool], Sequence[float] | Floats]) -> list[Floats]:
        """A table for each block, over its genes; ``values`` also reads whether the nodes begin with the image."""
        tables: dict[NodeFactory, Floats] = {}
        for i, block in enumerate(self.blocks):
            if block.nodes not in tables:
                choices = list(np.ndindex(*(int(self._counts[g]) for g in block.genes)))
                rows = [values(block.nodes("block", INPUT, choice), i == 0) for choice in choices]
                tables[block.nodes] = np.array(rows, dtype=np.float64).reshape(
                    *(int(self._counts[g]) for g in block.genes), -1
                )
        return [tables[block.nodes] for block in self.blocks]

    @cached_property
    def _cost_tables(self) -> list[Floats]:
        def values(nodes: Sequence[NetworkNode], reads_image: bool) -> Sequence[float]:
            input_sizes = {INPUT: prod(layers_of(nodes)[0].in_shape)}
            graph = lower(nodes, input_sizes, image_channels=self._image_channels if reads_image else 0)
            return (*part_counts(nodes, graph), FLOAT_BYTES * graph_peak(graph))

        return self._tables(values)

    @cached_property
    def _work_tables(self) -> list[Floats]:
        return self._tables(lambda nodes, _: work_by_kind(layers_of(nodes), self.kinds))

    @cached_property
    def _varying(self) -> NDArray[np.int64]:
        genes = np.random.default_rng(0).integers(0, self._counts, size=(_PROBES, len(self._counts)))
        return np.flatnonzero(np.ptp(self._total_work(genes), axis=0) > 0)
