"""Explorers on an oracle with planted weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from nas.core.arch import Floats, Genes, one_hot, sample
from nas.core.pareto import hypervolume
from nas.core.ports import Explorer, History, ImageShape
from search_spaces.mobilenet_v3.space import MobileNetV3, build

Evaluate = Callable[[Genes], tuple[Floats, Floats]]


@cache
def space_of() -> MobileNetV3:
    return build({"preset": "digits"}, ImageShape(1, 8, 8, 10))


def planted(space: MobileNetV3, bound: float = np.inf) -> Evaluate:
    """Latency (1 on average) linear in features, error linear in choices and log MACs, both scaled to about 1."""
    rng = np.random.default_rng(7)
    probe = sample(space.decisions, rng, 500)
    features = space.features(probe)
    latency_weights = rng.gamma(1.0, size=features.shape[1]) / features.mean(axis=0) / features.shape[1]
    choice_weights = rng.normal(scale=0.04, size=one_hot(space.decisions, probe).shape[1])
    log_macs = np.log(space.costs(probe)["macs"])

    def evaluate(genes_NG: Genes) -> tuple[Floats, Floats]:
        latency = space.features(genes_NG) @ latency_weights
        gain = one_hot(space.decisions, genes_NG) @ choice_weights
        error = 1.0 - gain - 0.15 * (np.log(space.costs(genes_NG)["macs"]) - log_macs.mean()) / log_macs.std()
        return np.stack([error, latency], axis=1), np.maximum(latency - bound, 0.0)

    return evaluate


def feasible_volume(losses_NM: Floats, violation_N: Floats) -> float:
    return hypervolume(losses_NM[violation_N <= 0], np.array([1.6, 2.5]))


def no_history(space: MobileNetV3) -> History:
    return History(np.zeros((0, len(space.decisions)), dtype=np.int64), np.zeros((0, 2)), np.zeros(0))


def explored(explorer: Explorer, evaluate: Evaluate, seed: int, rounds: int = 10, n: int = 24) -> History:
    """Ask and tell, as the explore stage does."""
    space, history = space_of(), no_history(space_of())
    for i in range(rounds):
        genes = explorer(space, history, np.random.default_rng((seed, i)), n)
        losses, violation = evaluate(genes)
        history = History(
            np.concatenate([history.genes_NG, genes]),
            np.concatenate([history.losses_NM, losses]),
            np.concatenate([history.violation_N, violation]),
        )
    return history
