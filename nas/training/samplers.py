"""Which architectures a training step trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nas.core.arch import Arch, Decision, Genes, as_archs, choice_counts
from nas.core.ports import SearchSpace
from nas.mixed_precision import PRECISION_AXIS


def largest(space: SearchSpace) -> Arch:
    """The largest network: the last choice of every decision."""
    return _arch(space, choice_counts(space.decisions) - 1)


def smallest(space: SearchSpace) -> Arch:
    """The smallest network: the first choice of every decision."""
    return _arch(space, np.zeros(len(space.decisions), dtype=np.int64))


def with_resolution(space: SearchSpace, arch: Arch, resolution: Arch) -> Arch:
    """``arch`` with the input-resolution genes of another architecture: one batch has one resolution."""
    genes = [
        r if d.axis == "resolution" else g
        for d, g, r in zip(space.decisions, arch.genes, resolution.genes, strict=True)
    ]
    return _arch(space, np.array(genes, dtype=np.int64))


def sample_elastic(space: SearchSpace, elastic: Mapping[str, int], rng: np.random.Generator, n: int) -> list[Arch]:
    """``n`` architectures that share one resolution; each decision is drawn among its ``elastic[axis]`` largest choices
    and stays at the largest where the axis is not elastic yet (progressive shrinking)."""
    counts = choice_counts(space.decisions)
    free = np.array([min(elastic.get(d.axis, 1), len(d.choices)) for d in space.decisions])
    genes_NG: Genes = counts - 1 - rng.integers(0, free, size=(n, len(free)), dtype=np.int64)
    shared = [i for i, d in enumerate(space.decisions) if d.axis == "resolution"]
    genes_NG[:, shared] = genes_NG[:1, shared]
    return as_archs(space.id, space.canonical(genes_NG))


def ladder(space: SearchSpace) -> list[Arch]:
    """Nested networks from the smallest to the largest: in each, all decisions stand at the same share of their
    choices, so that no network has a larger choice anywhere than the next (SortedNet, Valipour et al., 2023)."""
    top_G = choice_counts(space.decisions) - 1
    steps = np.unique([k / n for n in {int(n) for n in top_G if n > 0} for k in range(n + 1)])
    rungs_NG = np.floor(steps[:, None] * top_G + 1e-9).astype(np.int64)
    return list(dict.fromkeys(as_archs(space.id, space.canonical(rungs_NG))))


def of_equal_macs(
    space: SearchSpace, pool: Sequence[Arch], rng: np.random.Generator, n: int, candidates: int
) -> list[list[Arch]]:
    """For each of ``n`` MACs that are drawn evenly between the fewest and the most of ``pool``, the ``candidates``
    networks of it that are nearest (AttentiveNAS, Wang et al., CVPR 2021, section 4)."""
    macs_N = space.costs(np.array([arch.genes for arch in pool]))["macs"]
    targets = rng.uniform(macs_N.min(), macs_N.max(), size=n)
    nearest_NC = np.argsort(np.abs(macs_N[None] - targets[:, None]), axis=1, kind="stable")[:, :candidates]
    return [[pool[i] for i in row] for row in nearest_NC.tolist()]


def of_every_size(space: SearchSpace, pool: Sequence[Arch], rng: np.random.Generator, n: int) -> list[Arch]:
    """``n`` networks of a pool, the larger first: one of each n-th of it by MACs (Scala, Zhang et al., 2024, draws one
    width of the upper and one of the lower half)."""
    macs_N = space.costs(np.array([arch.genes for arch in pool]))["macs"]
    parts = np.array_split(np.argsort(-macs_N, kind="stable"), n)
    return [pool[rng.choice(part)] for part in parts]


def among_smallest_resolutions(space: SearchSpace, arch: Arch, count: int) -> Arch:
    """``arch`` at one of the ``count`` smallest resolutions, each of which is as likely."""
    genes = [
        gene % min(count, len(d.choices)) if d.axis == "resolution" else gene
        for d, gene in zip(space.decisions, arch.genes, strict=True)
    ]
    return _arch(space, np.array(genes, dtype=np.int64))


def axes(decisions: Sequence[Decision]) -> set[str]:
    """The elastic dimensions of a space that leave something to choose; precisions, which share all weights, are
    none."""
    return {d.axis for d in decisions if len(d.choices) > 1 and d.axis != PRECISION_AXIS}


def _arch(space: SearchSpace, genes_G: Genes) -> Arch:
    return as_archs(space.id, space.canonical(genes_G[None]))[0]
