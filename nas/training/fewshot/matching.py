"""Gradient matching: choices with conflicting gradients on shared weights go to different sub-supernets.

GM-NAS (Hu et al., Generalizing few-shot NAS with gradient matching, ICLR 2022), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from nas.core.arch import Arch, Decision, Floats, as_archs, sample
from nas.core.errors import InvalidSpec
from nas.core.ports import SearchSpace
from nas.core.rng import Stream, rng
from nas.supernet import Supernet
from nas.training.fewshot.partition import SpacePartition, bipartitions, split_breadth_first, splittable

MAX_CHOICES = 16  # 32,768 bipartitions
NO_LIMITS: Mapping[int, Sequence[int]] = {}
# The first and the last parts of supernets, by their names.
_ENDS = {"stem", "stem_norm", "final", "final_norm", "norm", "hidden", "classifier"}

BatchSource = Callable[[Arch, int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class GradientMatching:
    """One decision: the mean cosine similarity of its choices' gradients, its best two groups, and how much more
    choices disagree between the groups than inside them."""

    gene: int
    similarity: Floats
    groups: tuple[tuple[int, ...], tuple[int, ...]]
    score: float


def min_cut(similarity: Floats) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two groups with the least disagreement (1 - similarity) summed inside them, by trying all; equivalently the
    largest cut of the graph of disagreements. Groups have at least two members where there are four or more choices.

    Raises InvalidSpec for fewer than 2 and more than 16 choices.
    """
    n = len(similarity)
    if not 2 <= n <= MAX_CHOICES:
        raise InvalidSpec(f"gradient matching splits 2 to {MAX_CHOICES} choices, got {n}")
    disagreement = 1.0 - similarity
    return min(bipartitions(n), key=lambda groups: sum(_sum_within(disagreement, g) for g in groups))


def score(similarity: Floats, groups: Sequence[Sequence[int]]) -> float:
    """Mean disagreement between two groups less the mean inside them; both are means over pairs."""
    disagreement = 1.0 - similarity
    across = float(disagreement[np.ix_(groups[0], groups[1])].mean())
    pairs = sum(len(g) * (len(g) - 1) / 2 for g in groups)
    return across - (sum(_sum_within(disagreement, g) for g in groups) / pairs if pairs else 0.0)


def match_gradients(
    net: Supernet,
    space: SearchSpace,
    batch: BatchSource,
    gene: int,
    repeats: int,
    rng: np.random.Generator,
    allowed: Mapping[int, Sequence[int]] = NO_LIMITS,
) -> GradientMatching:
    """Compares the choices of a decision on ``repeats`` random networks, each with one batch that all choices share.

    ``batch(arch, repeat)`` gives normalised images and labels. Weights stay as they are. ``allowed``: the choices of a
    subspace, by decision; those of others are all.
    """
    choices = allowed_choices(space, gene, allowed)
    similarity = similarities(net, space, batch, gene, repeats, rng, allowed).mean(axis=0)
    first, second = min_cut(similarity)
    groups = tuple(choices[i] for i in first), tuple(choices[i] for i in second)
    return GradientMatching(gene, similarity, groups, score(similarity, (first, second)))


def allowed_choices(space: SearchSpace, gene: int, allowed: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """The choices that a decision has in a subspace."""
    return tuple(allowed.get(gene, range(len(space.decisions[gene].choices))))


def similarities(
    net: Supernet,
    space: SearchSpace,
    batch: BatchSource,
    gene: int,
    repeats: int,
    rng: np.random.Generator,
    allowed: Mapping[int, Sequence[int]] = NO_LIMITS,
    ends: bool = True,
) -> Floats:
    """Cosine similarity of the gradients of a decision's choices on ``repeats`` random networks, shape (repeats, n, n).

    ``allowed``: the choices of a subspace, by decision; those of others are all. ``ends``: compare the weights of stem,
    last batch norm and classifier as well, which all networks share whatever is split, and which hide what the others
    disagree about.
    """
    shared = [p for name, p in net.named_parameters() if p.requires_grad and (ends or not _is_end(name))]
    out = []
    for repeat in range(repeats):
        archs = _alternatives(space, gene, rng, allowed)
        x_BCHW, y_B = batch(archs[0], repeat)
        out.append(_cosines([_gradients(net, arch, x_BCHW, y_B, repeat, shared) for arch in archs]))
    return np.stack(out)


def _is_end(name: str) -> bool:
    return name.partition(".")[0] in _ENDS


def match_decisions(
    net: Supernet, space: SearchSpace, batch: BatchSource, names: Sequence[str], repeats: int, seed: int
) -> Iterator[GradientMatching]:
    """Compare the choices of the named decisions, or of all, one decision after another. Raises InvalidSpec for an
    unknown name."""
    by_name = {space.decisions[g].name: g for g in splittable(space)}
    if unknown := [n for n in names if n not in by_name]:
        raise InvalidSpec(f"few_shot cannot split {unknown[0]!r}: expected some of {', '.join(by_name)}")
    for gene in [by_name[n] for n in names] or list(by_name.values()):
        yield match_gradients(net, space, batch, gene, repeats, rng(seed, Stream.GRADIENT_MATCHING, gene))


def split_by_matching(matchings: Sequence[GradientMatching], limit: int) -> SpacePartition:
    """Split by the decisions with the highest scores, into at most ``limit`` subspaces."""
    best = sorted(matchings, key=lambda m: (-m.score, m.gene))
    return split_breadth_first([(m.gene, m.groups) for m in best], limit)


@dataclass
class RepeatedSplit:
    """A split whose subspaces are compared anew before they are split further, until there are ``limit``.
    ``partition`` is the result so far; ``genes``: the decisions that may be split."""

    net: Supernet
    space: SearchSpace
    batch: BatchSource
    genes: Sequence[int]
    repeats: int
    seed: int
    limit: int
    partition: SpacePartition = field(default_factory=SpacePartition)


@dataclass
class RepeatedMatching(RepeatedSplit):
    """Splits breadth first, each subspace by the decision whose choices disagree most on networks of that subspace
    (GM-NAS, section 3.3)."""

    def run(self) -> Iterator[GradientMatching]:
        """Every comparison, as it is made."""
        grown = True
        while grown:
            grown, subspace = False, 0
            for allowed in self.partition.allowed_choices():
                if self.partition.size == self.limit:
                    return
                matchings = []
                for matching in self._compare(allowed):
                    yield matching
                    matchings.append(matching)
                best = max(matchings, key=lambda m: (m.score, -m.gene), default=None)
                if best is not None:
                    self.partition, grown = self.partition.split(subspace, best.gene, best.groups), True
                subspace += 1 if best is None else 2

    def _compare(self, allowed: Mapping[int, Sequence[int]]) -> Iterator[GradientMatching]:
        for gene in self.genes:
            if len(allowed_choices(self.space, gene, allowed)) < 2:
                continue
            limits = [c for g in sorted(allowed) for c in allowed[g]]
            generator = rng(self.seed, Stream.GRADIENT_MATCHING, gene, *limits)
            yield match_gradients(self.net, self.space, self.batch, gene, self.repeats, generator, allowed)


def choice_names(decision: Decision) -> tuple[str, ...]:
    """The choices as text."""
    return tuple(str(c) for c in decision.choices)


def _sum_within(disagreement: Floats, group: Sequence[int]) -> float:
    return float(disagreement[np.ix_(group, group)][np.triu_indices(len(group), 1)].sum())


def _alternatives(
    space: SearchSpace, gene: int, rng: np.random.Generator, allowed: Mapping[int, Sequence[int]]
) -> list[Arch]:
    """One random network with each allowed choice of a decision. It is drawn anew while the decision is inactive in
    it."""
    choices = allowed_choices(space, gene, allowed)
    for _ in range(200):
        genes_NG = np.repeat(sample(space.decisions, rng, 1), len(choices), axis=0)
        for other, group in allowed.items():
            genes_NG[:, other] = rng.choice(list(group))
        genes_NG[:, gene] = choices
        genes_NG = space.canonical(genes_NG)
        if (genes_NG[:, gene] == choices).all() and len(np.unique(genes_NG, axis=0)) == len(choices):
            return as_archs(space.id, genes_NG)
    raise InvalidSpec(f"decision {space.decisions[gene].name} changes next to no network: expected another to split")


def _gradients(
    net: Supernet, arch: Arch, x_BCHW: torch.Tensor, y_B: torch.Tensor, seed: int, shared: Sequence[torch.Tensor]
) -> list[torch.Tensor | None]:
    torch.manual_seed(seed)  # dropout, the same for all choices
    net.train()
    loss = F.cross_entropy(net(x_BCHW, arch), y_B)
    return list(torch.autograd.grad(loss, shared, allow_unused=True))


def _cosines(gradients: Sequence[Sequence[torch.Tensor | None]]) -> Floats:
    """Over the weights that both networks of a pair use; 0 where they share none, or one has no gradient there."""
    n = len(gradients)
    out = np.eye(n)
    for k in range(n):
        for other in range(k):
            product = first = second = 0.0
            for a, b in zip(gradients[k], gradients[other], strict=True):
                if a is None or b is None:
                    continue
                shared = ((a != 0) & (b != 0)).to(a.dtype)  # elastic layers use parts of their tensors
                product += float((a * b).sum())
                first += float((a * a * shared).sum())
                second += float((b * b * shared).sum())
            out[k, other] = out[other, k] = product / max(np.sqrt(first * second), 1e-12)
    return out
