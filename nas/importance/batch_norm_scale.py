"""The mean magnitude of a unit's batch norm scales (Liu et al., Network slimming, ICCV 2017)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nas.core.operators import BatchNormOp
from nas.importance.sums import UnitScores, UnitSums
from nas.models.channels import ChannelAnalysis
from nas.models.graph import ModelGraph, WeightArrays


def unit_scores(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> UnitScores:
    """The scores of the groups whose units all have batch norms with scales; the images are not read."""
    sums = UnitSums(analysis)
    scales = {
        node.operands[3] for node in graph.nodes if isinstance(node.operator, BatchNormOp) and len(node.operands) > 3
    }
    for (name, _), units in analysis.axes.items():
        if name in scales:
            sums.add(units, np.abs(weights[name].astype(np.float64)))
    return sums.by_group(sums.sum_U / np.maximum(1, sums.count_U), sums.groups_with_values())
