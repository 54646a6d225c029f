"""What the stages of a few-shot search kept of its split and its ranking, as a view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from nas.schemas.rank_correlation import (
    GradientSimilaritySchema,
    RankCorrelationSchema,
    RankedArchSchema,
    SpacePartitionSchema,
)

Results = Mapping[str, Mapping[str, Any]]


def rank_correlation_schema(finished: Results) -> RankCorrelationSchema | None:
    """From the results of a search's stages; None unless one of them divided its space."""
    split = finished.get("split", {})
    if "partition" not in split:
        return None
    trained, ranked = finished.get("train", {}), finished.get("trust", {})
    return RankCorrelationSchema(
        method=split["method"],
        parts=split["parts"],
        partition=_mixture(trained) if split["method"] == "mixture" else _whole_tree(split),
        similarities=[_similarity(m) for m in split["matching"]],
        steps=trained.get("steps"),
        one_shot_steps=trained.get("one_shot_steps"),
        tau_before=ranked.get("tau_before"),
        tau_after=ranked.get("tau_after"),
        tau_one_shot=ranked.get("tau_one_shot"),
        networks=_networks(ranked) if ranked.get("networks") else [],
        advice=ranked.get("advice", ""),
    )


def _mixture(trained: Mapping[str, Any]) -> SpacePartitionSchema:
    """The combinations of choices that each part of a mixture has learned, a tree of one level."""
    if "assignment" not in trained:
        return SpacePartitionSchema()
    children = [
        SpacePartitionSchema(choices=group, part=part + 1, share=share)
        for part, (group, share) in enumerate(zip(trained["groups"], trained["shares"], strict=True))
    ]
    return SpacePartitionSchema(decision=", ".join(trained["assignment"]["decisions"]), children=children)


def _whole_tree(split: Mapping[str, Any]) -> SpacePartitionSchema:
    return _tree(split["partition"], (), split["choices"], split["shares"], count())


def _tree(
    node: Mapping[str, Any],
    choices: Sequence[str],
    names: Mapping[str, Sequence[str]],
    shares: Sequence[float],
    parts: Iterator[int],
) -> SpacePartitionSchema:
    """Parts are numbered depth first, as the engine does."""
    if not node:
        part = next(parts)
        return SpacePartitionSchema(choices=list(choices), part=part + 1, share=shares[part])
    known = names[node["decision"]]
    return SpacePartitionSchema(
        choices=list(choices),
        decision=node["decision"],
        children=[
            _tree(child, [known[c] for c in group], names, shares, parts)
            for group, child in zip(node["groups"], node["children"], strict=True)
        ],
    )


def _similarity(record: Mapping[str, Any]) -> GradientSimilaritySchema:
    names = record["choices"]
    groups = [[names[c] for c in group] for group in record["groups"]]
    return GradientSimilaritySchema(**{**record, "groups": groups})


def _networks(ranked: Mapping[str, Any]) -> list[RankedArchSchema]:
    one_shot = ranked.get("estimates_one_shot", [None] * ranked["networks"])
    columns = (ranked["archs"], ranked["truth"], ranked["estimates_before"], ranked["estimates_after"], one_shot)
    return [
        RankedArchSchema(arch=arch, alone=alone, before=before, after=after, one_shot=one)
        for arch, alone, before, after, one in zip(*columns, strict=True)
    ]
