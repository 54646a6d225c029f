"""From genes to objective values: exact costs, predicted latency, and how bounds are held."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.device import OnDevice
from nas.core.metrics import BOUND_METRIC, COSTS, SHARES
from nas.core.ports import Problem
from nas.fleet import FleetPredictor, latency_metrics


def cheap_metrics(problem: Problem, genes_NG: Genes) -> dict[str, Floats]:
    """Metrics that cost next to nothing, each shape (N,): what the space counts, ``predicted_ms``, ``upper_ms``; and
    shares of bounds where latency counts by them."""
    return {**problem.space.costs(genes_NG), **latency_metrics(problem.predictor, problem.space, genes_NG)}


def on_devices(problem: Problem, genes_NG: Genes) -> list[dict[str, OnDevice]]:
    """What is predicted of each of N networks on every device of a fleet; nothing where there is none."""
    if not isinstance(problem.predictor, FleetPredictor):
        return [{} for _ in genes_NG]
    latency_by_device = problem.predictor.by_device(problem.space, genes_NG)
    return [
        {
            name: OnDevice(float(latency.mean_ms[i]), float(latency.upper_ms[i]))
            for name, latency in latency_by_device.items()
        }
        for i in range(len(genes_NG))
    ]


def extrapolated(problem: Problem, genes_NG: Genes) -> list[bool | None]:
    """Whether each of N networks lies outside the domain of the latency predictor; None where it has no domain."""
    flags_N = problem.predictor.extrapolations(problem.space, genes_NG)
    return [None] * len(genes_NG) if flags_N is None else flags_N.tolist()


def losses(problem: Problem, metrics: Mapping[str, Floats], quality_N: Floats, maximised: bool = True) -> Floats:
    """Objectives of the spec as values to minimise, shape (N, M), in the spec's order. ``quality_N``: what stands for
    the quality of the networks, and whether of it more is better."""
    metric_of = {o: metric for o, (metric, _) in COSTS.items()}
    if problem.spec.by_share:
        metric_of["latency"] = SHARES["predicted_ms"]
    names = [o.name for o in problem.spec.objectives]
    loss_N = -quality_N if maximised else quality_N
    return np.stack([metrics[metric_of[n]] if n in COSTS else loss_N for n in names], axis=1)


def violation(problem: Problem, metrics: Mapping[str, Floats], quality_N: Floats | None = None) -> Floats:
    """Total relative violation of the spec's bounds, 0 where all are met, shape (N,).

    Latency is held by its calibrated upper bound, not its mean: a search exploits the predictor's errors.
    """
    total = np.zeros(len(metrics["params"]))
    if problem.spec.by_share:
        total += np.maximum(0.0, metrics["upper_share"] / 100.0 - 1.0)
    for o in problem.spec.objectives:
        if o.bound is None or (o.name == "latency" and problem.spec.by_share):
            continue
        if o.name in COSTS:
            total += np.maximum(0.0, metrics[BOUND_METRIC[o.name]] / o.bound - 1.0)
        elif quality_N is not None:
            share_N = quality_N / o.bound
            total += np.maximum(0.0, 1.0 - share_N if problem.spec.task.maximised else share_N - 1.0)
    return total
