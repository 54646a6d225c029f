"""Partitions of a search space into subspaces, and routing tables: which sub-supernet an architecture belongs to. No
torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from nas.core.arch import Arch, Decision, Genes, as_archs
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.json_types import JsonObject
from nas.core.ports import SearchSpace

MOST_COMBINATIONS = 4_096  # of choices that a supernet ensemble is routed by


class SupernetRouter(Protocol):
    """Maps architectures to ``size`` sub-supernets: the index of each row of canonical genes, shape (N,)."""

    @property
    def size(self) -> int: ...
    def route(self, genes_NG: Genes) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class SpacePartition:
    """A tree: every group of choices of decision ``gene`` has a partition of its own; a leaf is one subspace.

    Subspaces are numbered from 0, depth first, and contain canonical genes, see ``sub_supernet_index``.
    """

    gene: int = -1
    groups: tuple[tuple[int, ...], ...] = ()
    children: tuple[SpacePartition, ...] = ()

    @property
    def size(self) -> int:
        """The number of subspaces."""
        return sum(c.size for c in self.children) if self.groups else 1

    def route(self, genes_NG: Genes) -> NDArray[np.int64]:
        """The subspace of each row of canonical genes, shape (N,)."""
        out = np.zeros(len(genes_NG), dtype=np.int64)
        first = 0
        for group, child in zip(self.groups, self.children, strict=True):
            rows = np.isin(genes_NG[:, self.gene], group)
            out[rows] = first + child.route(genes_NG[rows])
            first += child.size
        return out

    def allowed_choices(self) -> list[dict[int, tuple[int, ...]]]:
        """For each subspace, the choices of each split decision."""
        if not self.groups:
            return [{}]
        return [
            {self.gene: group, **deeper}
            for group, child in zip(self.groups, self.children, strict=True)
            for deeper in child.allowed_choices()
        ]

    def split(self, subspace: int, gene: int, groups: Sequence[Sequence[int]]) -> SpacePartition:
        """The same partition with one subspace split further."""
        if not self.groups:
            return SpacePartition(gene, tuple(tuple(g) for g in groups), tuple(SpacePartition() for _ in groups))
        children = []
        for child in self.children:
            inside = 0 <= subspace < child.size
            children.append(child.split(subspace, gene, groups) if inside else child)
            subspace -= child.size
        return SpacePartition(self.gene, self.groups, tuple(children))

    def as_json(self, decisions: Sequence[Decision]) -> JsonObject:
        """With names, for storing and drawing; a subspace is an empty record."""
        record: JsonObject = _PARTITION.dump_python(self._named(decisions), mode="json", exclude_defaults=True)
        return record

    @staticmethod
    def from_json(record: JsonObject, decisions: Sequence[Decision]) -> SpacePartition:
        """Inverse of ``as_json``. Raises InvalidInput unless every choice of a split decision has one group."""
        choices = {i: tuple(range(len(d.choices))) for i, d in enumerate(decisions)}
        return _from_named(_parsed(_PARTITION, "partition", record), decisions, choices)

    def _named(self, decisions: Sequence[Decision]) -> _NamedPartition:
        if not self.groups:
            return _NamedPartition()
        children = tuple(child._named(decisions) for child in self.children)
        return _NamedPartition(decisions[self.gene].name, self.groups, children)


@dataclass(frozen=True)
class _NamedPartition:
    """A ``SpacePartition`` as it is stored: with the name of the decision, None for one subspace."""

    decision: str | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    children: tuple[_NamedPartition, ...] = ()


@dataclass(frozen=True)
class _NamedTable:
    """A ``RoutingTable`` as it is stored: with the names of the decisions; ``parts`` sub-supernets."""

    decisions: tuple[str, ...]
    table: tuple[int, ...]
    parts: int


_PARTITION, _TABLE = TypeAdapter(_NamedPartition), TypeAdapter(_NamedTable)
_Record = TypeVar("_Record")


def _parsed(adapter: TypeAdapter[_Record], concept: str, record: JsonObject) -> _Record:
    try:
        return adapter.validate_python(record)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"{concept}: {wrong}") from error


def _from_named(
    record: _NamedPartition, decisions: Sequence[Decision], choices: dict[int, tuple[int, ...]]
) -> SpacePartition:
    if record.decision is None:
        return SpacePartition()
    names = [d.name for d in decisions]
    if record.decision not in names:
        raise InvalidInput(f"partition: expected a decision of {', '.join(names)}, got {record.decision!r}")
    gene, groups = names.index(record.decision), record.groups
    if sorted(c for g in groups for c in g) != sorted(choices[gene]) or not all(groups):
        raise InvalidInput(f"partition of {names[gene]}: expected each of {list(choices[gene])} once, got {groups}")
    if len(record.children) != len(groups):
        raise InvalidInput(f"partition of {names[gene]}: expected {len(groups)} children, got {len(record.children)}")
    children = (
        _from_named(child, decisions, {**choices, gene: group})
        for group, child in zip(groups, record.children, strict=True)
    )
    return SpacePartition(gene, groups, tuple(children))


@dataclass(frozen=True)
class RoutingTable:
    """The sub-supernet of every combination of choices of the decisions ``genes``: ``table[i]``, where the choices are
    the digits of i (``counts`` are the bases, the last digit runs fastest)."""

    genes: tuple[int, ...]
    counts: tuple[int, ...]
    table: tuple[int, ...]
    size: int

    def route(self, genes_NG: Genes) -> NDArray[np.int64]:
        """The sub-supernet of each row of canonical genes, shape (N,)."""
        return np.array(self.table, dtype=np.int64)[choice_combination(self.genes, self.counts, genes_NG)]

    def as_json(self, decisions: Sequence[Decision]) -> JsonObject:
        """With names, for storing and display."""
        names = tuple(decisions[g].name for g in self.genes)
        record: JsonObject = _TABLE.dump_python(_NamedTable(names, self.table, self.size), mode="json")
        return record

    @staticmethod
    def from_json(record: JsonObject, decisions: Sequence[Decision]) -> RoutingTable:
        """Inverse of ``as_json``. Raises InvalidInput unless every combination has a sub-supernet."""
        stored = _parsed(_TABLE, "routing table", record)
        valid = [d.name for d in decisions]
        if unknown := [n for n in stored.decisions if n not in valid]:
            raise InvalidInput(f"routing table: expected decisions of {', '.join(valid)}, got {unknown[0]!r}")
        genes = tuple(valid.index(n) for n in stored.decisions)
        counts = tuple(len(decisions[g].choices) for g in genes)
        table, size = stored.table, stored.parts
        if len(table) != prod(counts) or not all(0 <= m < size for m in table):
            raise InvalidInput(
                f"routing table: expected a sub-supernet from 0 to {size - 1} for each of {prod(counts)} combinations"
            )
        return RoutingTable(genes, counts, table, size)


def choice_combination(genes: Sequence[int], counts: Sequence[int], genes_NG: Genes) -> NDArray[np.int64]:
    """The index of each row's combination of choices for the decisions ``genes``, shape (N,)."""
    numbers: NDArray[np.int64] = np.ravel_multi_index([genes_NG[:, g] for g in genes], tuple(counts)).astype(np.int64)
    return numbers


def router_from_json(record: JsonObject, decisions: Sequence[Decision]) -> SpacePartition | RoutingTable:
    """Inverse of ``as_json`` of both kinds of router. Raises InvalidInput."""
    if "table" in record:
        return RoutingTable.from_json(record, decisions)
    return SpacePartition.from_json(record, decisions)


def sub_supernet_index(router: SupernetRouter, space: SearchSpace, arch: Arch) -> int:
    """The sub-supernet of an architecture, by its canonical genes, so that equal networks share one."""
    return int(router.route(space.canonical(np.array([arch.genes])))[0])


def sample_subspace(
    partition: SpacePartition,
    subspace: int,
    space: SearchSpace,
    elastic: Mapping[str, int],
    rng: np.random.Generator,
    n: int,
) -> list[Arch]:
    """``n`` canonical architectures of one subspace that share one resolution, uniform over its gene vectors.

    ``elastic`` as in ``nas.training.samplers.sample_elastic``, of the choices in the subspace. Raises InvalidSpec
    for a subspace without networks.
    """
    allowed = partition.allowed_choices()[subspace]
    choices = [
        np.array(sorted(allowed.get(i, range(len(d.choices))))[-elastic.get(d.axis, 1) :])
        for i, d in enumerate(space.decisions)
    ]
    shared = [i for i, d in enumerate(space.decisions) if d.axis == "resolution"]
    resolution = [int(rng.choice(choices[i])) for i in shared]
    archs: list[Arch] = []
    for _ in range(200):
        drawn_NG = np.stack([rng.choice(c, size=4 * n) for c in choices], axis=1).astype(np.int64)
        drawn_NG[:, shared] = resolution
        genes_NG = space.canonical(drawn_NG)
        archs += as_archs(space.id, genes_NG[partition.route(genes_NG) == subspace])
        if len(archs) >= n:
            return archs[:n]
    raise InvalidSpec(
        f"subspace {subspace} of the partition has no networks, or nearly none: expected another partition"
    )


def subspace_sample(partition: SpacePartition, subspace: int, space: SearchSpace, n: int = 64) -> Genes:
    """Canonical genes of ``n`` networks of a subspace, shape (n, G), uniform, with a fixed seed. Raises InvalidSpec for
    a subspace without networks."""
    everything = {d.axis: len(d.choices) for d in space.decisions}
    archs = sample_subspace(partition, subspace, space, everything, np.random.default_rng(0), n)
    return np.array([arch.genes for arch in archs])


def subspace_extremes(partition: SpacePartition, subspace: int, space: SearchSpace) -> tuple[Arch, Arch]:
    """The smallest and the largest network of a subspace: its first and its last choices. Where the canonical form of
    these lies in another subspace, the networks with the fewest and the most MACs among some random ones.

    Raises InvalidSpec for a subspace without networks.
    """
    allowed = partition.allowed_choices()[subspace]
    groups = [sorted(allowed.get(i, range(len(d.choices)))) for i, d in enumerate(space.decisions)]
    genes_NG = space.canonical(np.array([[g[0] for g in groups], [g[-1] for g in groups]]))
    if (partition.route(genes_NG) != subspace).any():
        drawn_NG = subspace_sample(partition, subspace, space)
        macs_N = space.costs(drawn_NG)["macs"]
        inside = partition.route(genes_NG) == subspace
        pick = (int(macs_N.argmin()), int(macs_N.argmax()))
        genes_NG = np.stack([genes_NG[i] if inside[i] else drawn_NG[pick[i]] for i in (0, 1)])
    smallest, largest = as_archs(space.id, genes_NG)
    return smallest, largest


def split_breadth_first(plan: Sequence[tuple[int, Sequence[Sequence[int]]]], limit: int) -> SpacePartition:
    """Split by the decisions of ``plan``, each (gene, groups), breadth first, into at most ``limit`` subspaces."""
    partition = SpacePartition()
    for gene, groups in plan:
        subspace = 0
        for _ in range(partition.size):
            if partition.size + len(groups) - 1 > limit:
                return partition
            partition = partition.split(subspace, gene, groups)
            subspace += len(groups)
    return partition


def random_split(
    space: SearchSpace, limit: int, rng: np.random.Generator, genes: Sequence[int] | None = None
) -> SpacePartition:
    """Random decisions, of ``genes`` if given, the choices of each in two random groups of equal size: the baseline."""
    plan = []
    for gene in rng.permutation(splittable(space) if genes is None else list(genes)).tolist():
        order = rng.permutation(len(space.decisions[gene].choices)).tolist()
        half = len(order) // 2
        plan.append((gene, sorted([sorted(order[:half]), sorted(order[half:])])))
    return split_breadth_first(plan, limit)


def exhaustive_split(space: SearchSpace, names: Sequence[str], limit: int) -> SpacePartition:
    """One subspace for every choice of the decisions (Zhao et al., Few-shot NAS, ICML 2021).

    Raises InvalidSpec for an unknown decision, or when that takes more than ``limit`` subspaces.
    """
    by_name = {space.decisions[g].name: g for g in splittable(space)}
    for name in names:
        if name not in by_name:
            raise InvalidSpec(f"few_shot cannot split {name!r}: expected some of {', '.join(by_name)}")
    genes = [by_name[n] for n in names] or splittable(space)[:1]
    plan = [(g, [[c] for c in range(len(space.decisions[g].choices))]) for g in genes]
    subspaces = prod(len(groups) for _, groups in plan)
    if subspaces > limit:
        raise InvalidSpec(
            f"an exhaustive split of {len(genes)} decisions takes {subspaces} subspaces: `subspaces` allows {limit}"
        )
    return split_breadth_first(plan, limit)


def routing_genes(space: SearchSpace, names: Sequence[str]) -> tuple[int, ...]:
    """The decisions that a supernet ensemble is routed by: the named ones, or all.

    Raises InvalidSpec for an unknown one, and for too many combinations.
    """
    by_name = {space.decisions[g].name: g for g in splittable(space)}
    if unknown := [n for n in names if n not in by_name]:
        raise InvalidSpec(
            f"a supernet ensemble cannot be routed by {unknown[0]!r}: expected some of {', '.join(by_name)}"
        )
    genes = tuple(by_name[n] for n in names) or tuple(by_name.values())
    combinations = prod(len(space.decisions[g].choices) for g in genes)
    if combinations > MOST_COMBINATIONS:
        raise InvalidSpec(
            f"a supernet ensemble is routed by at most {MOST_COMBINATIONS} combinations of choices, {len(genes)} "
            f"decisions have {combinations}: name fewer of them under 'decisions', those whose choices interfere most"
        )
    return genes


def splittable(space: SearchSpace) -> list[int]:
    """The decisions that can split a space. One batch has one resolution, so resolution is not among them."""
    return [i for i, d in enumerate(space.decisions) if len(d.choices) > 1 and d.axis != "resolution"]


def bipartitions(n: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All partitions of 0 to n-1 into two groups, each of at least two from n = 4."""
    least = 2 if n >= 4 else 1
    for bits in range(2 ** (n - 1)):
        second = tuple(i for i in range(1, n) if bits >> (i - 1) & 1)
        first = tuple(i for i in range(n) if i not in second)
        if min(len(first), len(second)) >= least:
            yield first, second
