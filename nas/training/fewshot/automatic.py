"""Whether a split pays, and where: choices are separated only if a step for one group raises the loss of the other.

Sharing weights helps as long as gradients agree: to first order, a step along the gradient of one group raises the loss
of another exactly where their cosine is negative. Groups are chosen by gradient matching (Hu et al., GM-NAS, ICLR 2022)
on half of the batches and judged on the other half, against random groupings of the same choices, so that the best of
many groupings of noise predicts nothing. Inside each child of a split, choices are compared anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from nas.core.arch import Floats
from nas.core.errors import InvalidSpec
from nas.core.rng import Stream, rng
from nas.training.fewshot.matching import GradientMatching, RepeatedSplit, allowed_choices, min_cut, score, similarities
from nas.training.fewshot.partition import bipartitions

LEVEL = 0.05  # of the test for a conflict, shared among the decisions of a subspace
QUANTILE = 0.95  # of random groupings' scores, which the matched one has to exceed
Leaf = tuple[tuple[int, tuple[int, ...]], ...]  # the choices of a subspace, by decision
LEAST_REPEATS = 4  # batches: two to choose groups, two to judge them


@dataclass(frozen=True)
class GroupConflict:
    """A decision in a subspace. ``matching``: by all batches, its groups by one half. On the other half: ``upper``, an
    upper bound on the mean cosine of gradients across the groups, ``score`` of the groups, and ``random_score``, that
    of random groupings at ``QUANTILE``; None where there is no other grouping."""

    matching: GradientMatching
    upper: float
    score: float
    random_score: float | None

    @property
    def predicts_gain(self) -> bool:
        """Whether the groups harm each other, and more than random groups do."""
        return self.upper < 0 and (self.random_score is None or self.score > self.random_score)


def conflict_of(gene: int, choices: Sequence[int], similarity_RNN: Floats, tests: int) -> GroupConflict:
    """Of a decision's ``choices``, by similarities of R batches. ``tests``: how many decisions are compared."""
    grouping_RNN, testing_RNN = similarity_RNN[0::2], similarity_RNN[1::2]
    groups = min_cut(grouping_RNN.mean(axis=0))
    across_R = testing_RNN[:, groups[0]][:, :, groups[1]].mean(axis=(1, 2))
    error = across_R.std(ddof=1) / np.sqrt(len(across_R))
    upper = across_R.mean() + stdtrit(len(across_R) - 1, 1.0 - LEVEL / tests) * error
    held_out = testing_RNN.mean(axis=0)
    random_scores = [score(held_out, other) for other in bipartitions(len(choices)) if set(other) != set(groups)]
    named = tuple(tuple(choices[i] for i in group) for group in groups)
    similarity_NN = similarity_RNN.mean(axis=0)
    return GroupConflict(
        GradientMatching(gene, similarity_NN, (named[0], named[1]), score(similarity_NN, groups)),
        float(upper),
        score(held_out, groups),
        float(np.quantile(random_scores, QUANTILE)) if random_scores else None,
    )


@dataclass
class AutomaticSplit(RepeatedSplit):
    """Splits subspaces, the one with the strongest conflict first, until there are ``limit`` or no conflict is left
    that predicts a gain."""

    def __post_init__(self) -> None:
        if self.repeats < LEAST_REPEATS:
            raise InvalidSpec(
                f"split auto judges groups on half of the batches: expected at least {LEAST_REPEATS} repeats"
            )

    def run(self) -> Iterator[GroupConflict]:
        """Every comparison, as it is made."""
        harmful: dict[Leaf, GroupConflict | None] = {}  # the strongest conflict of each subspace that predicts a gain
        while self.partition.size < self.limit:
            leaves = [tuple(sorted(allowed.items())) for allowed in self.partition.allowed_choices()]
            for leaf in leaves:
                if leaf not in harmful:
                    conflicts = []
                    for conflict in self._compare(dict(leaf)):
                        yield conflict
                        conflicts.append(conflict)
                    predicted = [c for c in conflicts if c.predicts_gain]
                    harmful[leaf] = max(predicted, key=lambda c: c.score, default=None)
            open_conflicts = [(i, c) for i, leaf in enumerate(leaves) if (c := harmful[leaf]) is not None]
            if not open_conflicts:
                return
            subspace, strongest = max(open_conflicts, key=lambda pair: pair[1].score)
            matching = strongest.matching
            self.partition = self.partition.split(subspace, matching.gene, matching.groups)

    def _compare(self, allowed: Mapping[int, tuple[int, ...]]) -> Iterator[GroupConflict]:
        """The decisions of a subspace that have choices left."""
        choices_by_gene = {g: allowed_choices(self.space, g, allowed) for g in self.genes}
        divisible = {g: choices for g, choices in choices_by_gene.items() if len(choices) > 1}
        for gene, choices in divisible.items():
            generator = rng(
                self.seed, Stream.GRADIENT_MATCHING, gene, *(c for g in sorted(allowed) for c in allowed[g])
            )
            table = similarities(self.net, self.space, self.batch, gene, self.repeats, generator, allowed, ends=False)
            yield conflict_of(gene, choices, table, len(divisible))
