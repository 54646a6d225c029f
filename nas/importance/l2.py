"""The L2 norm of all weights of a unit, its own and those that read it (Li et al., Pruning filters for efficient
ConvNets, ICLR 2017, with L2 instead of L1)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nas.importance.sums import UnitScores, UnitSums
from nas.models.channels import ChannelAnalysis
from nas.models.execution import batch_norm_statistics
from nas.models.graph import ModelGraph, WeightArrays


def unit_scores(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> UnitScores:
    """The scores of all groups; the images are not read."""
    sums = UnitSums(analysis)
    statistics = batch_norm_statistics(graph)
    for (name, axis), units in analysis.axes.items():
        if name in statistics:
            continue
        squares = np.square(weights[name].astype(np.float64))
        other_axes = tuple(i for i in range(squares.ndim) if i != axis)
        sums.add(units, squares.sum(axis=other_axes))
    return sums.by_group(np.sqrt(sums.sum_U))
