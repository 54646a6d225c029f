"""From genes to objective values: exact costs, predicted latency, and how bounds are held."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.metrics import HELD, OBJECTIVES
from nas.core.ports import Problem, predict_latency


def cheap_metrics(problem: Problem, genes_NG: Genes) -> dict[str, Floats]:
    """Metrics that cost next to nothing, each shape (N,): what the space counts, ``predicted_ms``, ``upper_ms``."""
    latency = predict_latency(problem.predictor, problem.space, genes_NG)
    return {
        **problem.space.costs(genes_NG),
        "predicted_ms": latency.mean_ms,
        "upper_ms": latency.upper_ms,
    }


def losses(problem: Problem, metrics: Mapping[str, Floats], accuracy_N: Floats) -> Floats:
    """Objectives of the spec as values to minimise, shape (N, M), in the spec's order."""
    names = [o.name for o in problem.spec.objectives]
    return np.stack([-accuracy_N if n == "accuracy" else metrics[OBJECTIVES[n][0]] for n in names], axis=1)


def violation(problem: Problem, metrics: Mapping[str, Floats], accuracy_N: Floats | None = None) -> Floats:
    """Total relative violation of the spec's bounds, 0 where all are met, shape (N,).

    Latency is held by its calibrated upper bound, not its mean: a search exploits the predictor's errors.
    """
    total = np.zeros(len(metrics["params"]))
    for o in problem.spec.objectives:
        if o.bound is None:
            continue
        if o.name != "accuracy":
            total += np.maximum(0.0, metrics[HELD[o.name]] / o.bound - 1.0)
        elif accuracy_N is not None:
            total += np.maximum(0.0, 1.0 - accuracy_N / o.bound)
    return total
