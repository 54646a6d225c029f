"""The criteria by name, and the order of units that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor

from nas.importance import batch_norm_scale, bip, l2, taylor, trainable_gate
from nas.importance.sums import UnitScores
from nas.models.channels import ChannelAnalysis
from nas.models.graph import ModelGraph, WeightArrays

CriterionName: TypeAlias = Literal["taylor", "l2", "batch_norm_scale", "trainable_gate", "bip"]
_CRITERIA: Mapping[CriterionName, Callable[[ModelGraph, WeightArrays, ChannelAnalysis, Tensor], UnitScores]] = {
    "taylor": taylor.unit_scores,
    "l2": l2.unit_scores,
    "batch_norm_scale": batch_norm_scale.unit_scores,
    "trainable_gate": trainable_gate.unit_scores,
    "bip": bip.unit_scores,
}


@dataclass(frozen=True)
class UnitOrders:
    """The units of each channel group, the most important first. ``by_l2``: the groups that the criterion says nothing
    of, whose order is that of ``l2``."""

    order: dict[str, list[int]]
    by_l2: tuple[str, ...]


def unit_orders(
    criterion: CriterionName, graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor
) -> UnitOrders:
    """The order by a criterion, from normalised images; equal units stay in the order of the model."""
    scores = _CRITERIA[criterion](graph, weights, analysis, x_BCHW)
    missing = tuple(name for name in analysis.numbers if name not in scores)
    if missing:
        norms = l2.unit_scores(graph, weights, analysis, x_BCHW)
        scores |= {name: norms[name] for name in missing}
    return UnitOrders({name: np.argsort(-s, kind="stable").tolist() for name, s in scores.items()}, missing)
