"""What a hypernetwork gives under the bounds and on the devices of a search: no training, one forward pass each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.errors import InvalidSpec
from nas.core.ports import LatencyPredictor, Problem, RelaxedSpace, SearchSpace, is_relaxed, predict_latency
from nas.objectives import cheap_metrics, violation
from nas.stages.gradient_runs import GradientRun
from nas.training.gradient.hypernetwork import (
    ConditionedDevice,
    Hypernetwork,
    front_of_device,
    preference_within,
    scores_of,
)
from nas.training.weights import Weights


def conditioned_devices(problem: Problem) -> list[ConditionedDevice]:
    """The devices of a search, by the upper bounds of their predictors."""
    assert is_relaxed(problem.space)
    return [ConditionedDevice.of(problem.space, d.name, _upper(d.predictor, problem.space)) for d in problem.targets]


def _upper(predictor: LatencyPredictor, space: SearchSpace) -> Callable[[Genes], Floats]:
    return lambda genes_NG: predict_latency(predictor, space, genes_NG).upper_ms


def is_within_bounds(problem: Problem) -> Callable[[Genes], bool]:
    """Whether a network (G,) meets all bounds that need no training to be known."""
    return lambda genes_G: bool(violation(problem, cheap_metrics(problem, genes_G[None]))[0] == 0)


def reread(problem: Problem, run: GradientRun, weights: Weights | None) -> GradientRun:
    """A run as its hypernetwork gives it for the devices and bounds of another search. Raises InvalidSpec for weights
    without a hypernetwork."""
    space = problem.space
    assert is_relaxed(space)
    if weights is None or "hypernetwork" not in weights:
        raise InvalidSpec(f"seed {run.seed}: expected the weights of a hypernetwork beside the supernet's, got none")
    net = Hypernetwork(space.relaxation.shape, run.seed)
    net.load_state_dict(weights["hypernetwork"])
    return reread_by(net, space, problem, run)


def reread_by(net: Hypernetwork, space: RelaxedSpace, problem: Problem, run: GradientRun) -> GradientRun:
    """As ``reread``, by a hypernetwork that is loaded."""
    devices = conditioned_devices(problem)
    preference = preference_within(net, space, devices[0], is_within_bounds(problem))
    scores_EO = scores_of(net, space, preference, devices[0])
    fronts = np.concatenate([front_of_device(net, space, device) for device in devices])
    return replace(
        run,
        genes=tuple(space.discretise(scores_EO).tolist()),
        scores=tuple(map(tuple, scores_EO.tolist())),
        series=tuple(dict.fromkeys(tuple(genes_G) for genes_G in fronts.tolist())),
    )
