"""Which part of a divided space an architecture belongs to, as a value. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Arch, Decision, Genes, as_archs
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.ports import SearchSpace

MOST_COMBINATIONS = 4_096  # by which a mixture is routed


class Division(Protocol):
    """A space in parts: ``size`` of them, and the part of each row of canonical genes, shape (N,)."""

    @property
    def size(self) -> int: ...
    def parts(self, genes_NG: Genes) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class SpacePartition:
    """A tree: every group of choices of decision ``gene`` has a partition of its own. Without groups it is one part.

    Parts are numbered from 0, depth first. Canonical genes are what counts, see ``route``.
    """

    gene: int = -1
    groups: tuple[tuple[int, ...], ...] = ()
    children: tuple[SpacePartition, ...] = ()

    @property
    def size(self) -> int:
        """The number of parts."""
        return sum(c.size for c in self.children) if self.groups else 1

    def parts(self, genes_NG: Genes) -> NDArray[np.int64]:
        """The part of each row of canonical genes, shape (N,)."""
        out = np.zeros(len(genes_NG), dtype=np.int64)
        first = 0
        for group, child in zip(self.groups, self.children, strict=True):
            rows = np.isin(genes_NG[:, self.gene], group)
            out[rows] = first + child.parts(genes_NG[rows])
            first += child.size
        return out

    def allowed(self) -> list[dict[int, tuple[int, ...]]]:
        """For each part, the choices that are left to each divided decision."""
        if not self.groups:
            return [{}]
        return [
            {self.gene: group, **deeper}
            for group, child in zip(self.groups, self.children, strict=True)
            for deeper in child.allowed()
        ]

    def deepened(self, part: int, gene: int, groups: Sequence[Sequence[int]]) -> SpacePartition:
        """The same with one of its parts divided."""
        if not self.groups:
            return SpacePartition(gene, tuple(tuple(g) for g in groups), tuple(SpacePartition() for _ in groups))
        children = []
        for child in self.children:
            inside = 0 <= part < child.size
            children.append(child.deepened(part, gene, groups) if inside else child)
            part -= child.size
        return SpacePartition(self.gene, self.groups, tuple(children))

    def as_json(self, decisions: Sequence[Decision]) -> dict[str, Any]:
        """With names, for storing and drawing; a part is an empty record."""
        if not self.groups:
            return {}
        return {
            "decision": decisions[self.gene].name,
            "groups": [list(group) for group in self.groups],
            "children": [child.as_json(decisions) for child in self.children],
        }

    @staticmethod
    def from_json(record: Mapping[str, Any], decisions: Sequence[Decision]) -> SpacePartition:
        """Inverse of ``as_json``. Raises InvalidInput unless every choice of a split decision has one group."""
        return _parsed(record, decisions, {i: tuple(range(len(d.choices))) for i, d in enumerate(decisions)})


def _parsed(
    record: Mapping[str, Any], decisions: Sequence[Decision], left: dict[int, tuple[int, ...]]
) -> SpacePartition:
    if not record:
        return SpacePartition()
    names = [d.name for d in decisions]
    if record["decision"] not in names:
        raise InvalidInput(f"partition: expected a decision of {', '.join(names)}, got {record['decision']!r}")
    gene = names.index(record["decision"])
    groups = tuple(tuple(int(c) for c in group) for group in record["groups"])
    if sorted(c for g in groups for c in g) != sorted(left[gene]) or not all(groups):
        raise InvalidInput(f"partition of {names[gene]}: expected each of {list(left[gene])} once, got {groups}")
    if len(record["children"]) != len(groups):
        raise InvalidInput(
            f"partition of {names[gene]}: expected {len(groups)} children, got {len(record['children'])}"
        )
    children = (
        _parsed(child, decisions, {**left, gene: group})
        for group, child in zip(groups, record["children"], strict=True)
    )
    return SpacePartition(gene, groups, tuple(children))


@dataclass(frozen=True)
class Assignment:
    """A table: every combination of choices of the decisions ``genes`` has its part, ``table[i]`` where the choices
    count as the digits of i (``counts`` are the bases, the last digit runs fastest)."""

    genes: tuple[int, ...]
    counts: tuple[int, ...]
    table: tuple[int, ...]
    size: int

    def parts(self, genes_NG: Genes) -> NDArray[np.int64]:
        """The part of each row of canonical genes, shape (N,)."""
        return np.array(self.table, dtype=np.int64)[combination(self.genes, self.counts, genes_NG)]

    def as_json(self, decisions: Sequence[Decision]) -> dict[str, Any]:
        """With names, for storing and showing."""
        names = [decisions[g].name for g in self.genes]
        return {"decisions": names, "table": list(self.table), "parts": self.size}

    @staticmethod
    def from_json(record: Mapping[str, Any], decisions: Sequence[Decision]) -> Assignment:
        """Inverse of ``as_json``. Raises InvalidInput unless every combination has a part."""
        known = [d.name for d in decisions]
        if unknown := [n for n in record["decisions"] if n not in known]:
            raise InvalidInput(f"assignment: expected decisions of {', '.join(known)}, got {unknown[0]!r}")
        genes = tuple(known.index(n) for n in record["decisions"])
        counts = tuple(len(decisions[g].choices) for g in genes)
        table, size = tuple(int(m) for m in record["table"]), int(record["parts"])
        if len(table) != prod(counts) or not all(0 <= m < size for m in table):
            raise InvalidInput(
                f"assignment: expected a part from 0 to {size - 1} for each of {prod(counts)} combinations"
            )
        return Assignment(genes, counts, table, size)


def combination(genes: Sequence[int], counts: Sequence[int], genes_NG: Genes) -> NDArray[np.int64]:
    """The number of the combination of choices that each row has for some decisions, shape (N,)."""
    numbers: NDArray[np.int64] = np.ravel_multi_index([genes_NG[:, g] for g in genes], tuple(counts)).astype(np.int64)
    return numbers


def division_from_json(record: Mapping[str, Any], decisions: Sequence[Decision]) -> SpacePartition | Assignment:
    """What ``as_json`` of either gave. Raises InvalidInput."""
    if "table" in record:
        return Assignment.from_json(record, decisions)
    return SpacePartition.from_json(record, decisions)


def route(partition: Division, space: SearchSpace, arch: Arch) -> int:
    """The part of an architecture, by its canonical genes, so that equal networks share a part."""
    return int(partition.parts(space.canonical(np.array([arch.genes])))[0])


def sample_part(
    partition: SpacePartition,
    part: int,
    space: SearchSpace,
    elastic: Mapping[str, int],
    rng: np.random.Generator,
    n: int,
) -> list[Arch]:
    """``n`` canonical architectures of one part that share one resolution, uniform over gene vectors of the part.

    ``elastic`` as in ``nas.training.samplers.sample_elastic``, of the choices that the part has. Raises InvalidSpec for
    a part without networks.
    """
    allowed = partition.allowed()[part]
    choices = [
        np.array(sorted(allowed.get(i, range(len(d.choices))))[-elastic.get(d.axis, 1) :])
        for i, d in enumerate(space.decisions)
    ]
    shared = [i for i, d in enumerate(space.decisions) if d.axis == "resolution"]
    lead = [int(rng.choice(choices[i])) for i in shared]
    found: list[Arch] = []
    for _ in range(200):
        drawn_NG = np.stack([rng.choice(c, size=4 * n) for c in choices], axis=1).astype(np.int64)
        drawn_NG[:, shared] = lead
        genes_NG = space.canonical(drawn_NG)
        found += as_archs(space.id, genes_NG[partition.parts(genes_NG) == part])
        if len(found) >= n:
            return found[:n]
    raise InvalidSpec(f"part {part} of the partition has no networks, or nearly none: expected another division")


def some_of(partition: SpacePartition, part: int, space: SearchSpace, n: int = 64) -> Genes:
    """Canonical genes of ``n`` networks of a part, shape (n, G), uniform and always the same ones. Raises InvalidSpec
    for a part without networks."""
    everything = {d.axis: len(d.choices) for d in space.decisions}
    drawn = sample_part(partition, part, space, everything, np.random.default_rng(0), n)
    return np.array([arch.genes for arch in drawn])


def extremes_of(partition: SpacePartition, part: int, space: SearchSpace) -> tuple[Arch, Arch]:
    """The network of the part's first choices and that of its last ones: its smallest and its largest. Where these,
    being canonical, belong to other parts, those of the fewest and of the most MACs among some random ones.

    Raises InvalidSpec for a part without networks.
    """
    allowed = partition.allowed()[part]
    groups = [sorted(allowed.get(i, range(len(d.choices)))) for i, d in enumerate(space.decisions)]
    genes_NG = space.canonical(np.array([[g[0] for g in groups], [g[-1] for g in groups]]))
    if (partition.parts(genes_NG) != part).any():
        drawn_NG = some_of(partition, part, space)
        macs_N = space.costs(drawn_NG)["macs"]
        inside = partition.parts(genes_NG) == part
        pick = (int(macs_N.argmin()), int(macs_N.argmax()))
        genes_NG = np.stack([genes_NG[i] if inside[i] else drawn_NG[pick[i]] for i in (0, 1)])
    smallest, largest = as_archs(space.id, genes_NG)
    return smallest, largest


def breadth_first(plan: Sequence[tuple[int, Sequence[Sequence[int]]]], most: int) -> SpacePartition:
    """Divides by the decisions of ``plan``, each (gene, groups), all parts by the first before any by the second, as
    long as there are no more than ``most`` parts."""
    partition = SpacePartition()
    for gene, groups in plan:
        part = 0
        for _ in range(partition.size):
            if partition.size + len(groups) - 1 > most:
                return partition
            partition = partition.deepened(part, gene, groups)
            part += len(groups)
    return partition


def random_split(
    space: SearchSpace, most: int, rng: np.random.Generator, genes: Sequence[int] | None = None
) -> SpacePartition:
    """Random decisions, of ``genes`` if given, the choices of each in two random groups of equal size: the baseline."""
    plan = []
    for gene in rng.permutation(divisible(space) if genes is None else list(genes)).tolist():
        order = rng.permutation(len(space.decisions[gene].choices)).tolist()
        half = len(order) // 2
        plan.append((gene, sorted([sorted(order[:half]), sorted(order[half:])])))
    return breadth_first(plan, most)


def exhaustive_split(space: SearchSpace, names: Sequence[str], most: int) -> SpacePartition:
    """One part for every choice of the decisions (Zhao et al., Few-shot NAS, ICML 2021).

    Raises InvalidSpec for an unknown decision, or when that takes more than ``most`` parts.
    """
    known = {space.decisions[g].name: g for g in divisible(space)}
    for name in names:
        if name not in known:
            raise InvalidSpec(f"few_shot cannot split {name!r}: expected some of {', '.join(known)}")
    genes = [known[n] for n in names] or divisible(space)[:1]
    plan = [(g, [[c] for c in range(len(space.decisions[g].choices))]) for g in genes]
    wanted = prod(len(groups) for _, groups in plan)
    if wanted > most:
        raise InvalidSpec(f"an exhaustive split of {len(genes)} decisions takes {wanted} parts: parts allows {most}")
    return breadth_first(plan, most)


def routed_genes(space: SearchSpace, names: Sequence[str]) -> tuple[int, ...]:
    """The decisions that a mixture is routed by: those that are named, or all.

    Raises InvalidSpec for an unknown one, and for too many combinations.
    """
    known = {space.decisions[g].name: g for g in divisible(space)}
    if unknown := [n for n in names if n not in known]:
        raise InvalidSpec(f"a mixture cannot be routed by {unknown[0]!r}: expected some of {', '.join(known)}")
    genes = tuple(known[n] for n in names) or tuple(known.values())
    combinations = prod(len(space.decisions[g].choices) for g in genes)
    if combinations > MOST_COMBINATIONS:
        raise InvalidSpec(
            f"a mixture is routed by at most {MOST_COMBINATIONS} combinations of choices, {len(genes)} decisions have "
            f"{combinations}: name fewer of them under 'decisions', those whose choices interfere most"
        )
    return genes


def divisible(space: SearchSpace) -> list[int]:
    """The decisions that can be divided. One batch has one resolution, so resolution is not among them."""
    return [i for i, d in enumerate(space.decisions) if len(d.choices) > 1 and d.axis != "resolution"]


def bipartitions(n: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All ways to put 0 to n-1 into two groups; of at least two each where there are four or more."""
    least = 2 if n >= 4 else 1
    for bits in range(2 ** (n - 1)):
        second = tuple(i for i in range(1, n) if bits >> (i - 1) & 1)
        first = tuple(i for i in range(n) if i not in second)
        if min(len(first), len(second)) >= least:
            yield first, second
