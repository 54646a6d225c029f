"""What the stages of a search kept of its ranking, and of the split of a few-shot search, as a view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from nas.core.events import StageResults
from nas.schemas.rank_correlation import (
    GradientSimilaritySchema,
    RankCorrelationSchema,
    RankedArchSchema,
    SpacePartitionSchema,
)
from nas.stages.results import EnsembleResult, GradientSimilarity, RankCorrelationResult, RetrainResult, SplitResult


def rank_correlation_schema(finished: StageResults) -> RankCorrelationSchema | None:
    """From the results of a search's stages; None unless one of them divided its space, or trained networks alone."""
    split = SplitResult.read(finished)
    if split is None or split.partition is None:
        return _of_networks(finished)
    trained = EnsembleResult.read(finished) or EnsembleResult()
    ranked = RankCorrelationResult.read(finished) or RankCorrelationResult()
    assert split.method is not None
    assert split.subspaces is not None
    return RankCorrelationSchema(
        method=split.method,
        subspaces=split.subspaces,
        partition=_ensemble(trained) if split.method == "ensemble" else _whole_tree(split),
        similarities=[_similarity(m) for m in split.matching or ()],
        steps=trained.steps,
        one_shot_steps=trained.one_shot_steps,
        tau_before=ranked.tau_before,
        tau_after=ranked.tau_after,
        tau_one_shot=ranked.tau_one_shot,
        intervals=dict(ranked.intervals or {}),
        networks=_networks(ranked) if ranked.networks else [],
        advice=ranked.advice or "",
    )


def _of_networks(finished: StageResults) -> RankCorrelationSchema | None:
    retrained = RetrainResult.read(finished) or RetrainResult()
    ranked = RankCorrelationResult.read(finished)
    if ranked is None or not ranked.networks:
        ranked = retrained.ranking
    if ranked is None:
        return None
    return RankCorrelationSchema(
        tau_after=ranked.tau_after,
        intervals=dict(ranked.intervals or {}),
        networks=_networks(ranked),
        advice=ranked.advice or "",
    )


def _ensemble(trained: EnsembleResult) -> SpacePartitionSchema:
    """The combinations of choices that each supernet of an ensemble has learned, as a tree of one level."""
    if trained.assignment is None:
        return SpacePartitionSchema()
    children = [
        SpacePartitionSchema(choices=list(group), subspace=subspace + 1, share=share)
        for subspace, (group, share) in enumerate(zip(trained.groups or (), trained.shares or (), strict=True))
    ]
    return SpacePartitionSchema(decision=", ".join(trained.assignment["decisions"]), children=children)


def _whole_tree(split: SplitResult) -> SpacePartitionSchema:
    return _tree(split.tree, (), split.choices or {}, split.shares or (), count())


def _tree(
    node: Mapping[str, Any],
    choices: Sequence[str],
    names: Mapping[str, Sequence[str]],
    shares: Sequence[float],
    subspaces: Iterator[int],
) -> SpacePartitionSchema:
    """Subspaces are numbered depth first, as the engine does."""
    if not node:
        subspace = next(subspaces)
        return SpacePartitionSchema(choices=list(choices), subspace=subspace + 1, share=shares[subspace])
    choice_names = names[node["decision"]]
    return SpacePartitionSchema(
        choices=list(choices),
        decision=node["decision"],
        children=[
            _tree(child, [choice_names[c] for c in group], names, shares, subspaces)
            for group, child in zip(node["groups"], node["children"], strict=True)
        ],
    )


def _similarity(m: GradientSimilarity) -> GradientSimilaritySchema:
    return GradientSimilaritySchema(
        decision=m.decision,
        choices=list(m.choices),
        similarity=[list(row) for row in m.similarity],
        groups=[[m.choices[c] for c in group] for group in m.groups],
        score=m.score,
    )


def _networks(ranked: RankCorrelationResult) -> list[RankedArchSchema]:
    without: tuple[None, ...] = (None,) * ranked.networks
    one_shot, before = ranked.estimates_one_shot or without, ranked.estimates_before or without
    rows = zip(
        ranked.archs or (),
        ranked.truth or (),
        before,
        ranked.estimates_after or (),
        one_shot,
        strict=True,
    )
    return [
        RankedArchSchema(arch=arch, standalone=standalone, before=earlier, after=after, one_shot=one)
        for arch, standalone, earlier, after, one in rows
    ]
