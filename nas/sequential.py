"""Sequential tuner: random hyperparameters, successive halving, the same result however often it is interrupted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from nas.core.errors import Diverged
from nas.core.tuning import Hyperparameter, Trainable, Trial, TrialRequest, TrialState, TuningPlan


def run_sequentially(plan: TuningPlan, train: Trainable, previous: Mapping[str, TrialState]) -> Iterator[TrialState]:
    """A ``Tuner`` for one process. Proposals and stopping depend only on the plan and on earlier trials."""
    states = dict(previous)
    for request in plan.requests:
        state = states.get(request.id) or TrialState(Trial(request.group, request.number, _values(plan, request)))
        if state.status != "running":
            continue
        try:
            for result in train(state.trial, state.blob):
                state = replace(state, scores=result.scores, blob=result.blob or state.blob)
                if len(state.scores) == plan.epochs:
                    state = replace(state, status="finished")
                elif result.cut:
                    state = replace(state, status="cut")
                elif not survives_rung(plan, state, states.values()):
                    state = replace(state, status="pruned")
                states[request.id] = state
                yield state
                if state.status != "running":
                    break
        except Diverged as error:
            states[request.id] = replace(state, status="failed", message=str(error))
            yield states[request.id]


def survives_rung(plan: TuningPlan, state: TrialState, trials: Iterable[TrialState]) -> bool:
    """Whether a trial continues after its latest epoch; True between rungs."""
    rung = len(state.scores)
    if rung not in plan.rungs:
        return True
    assert plan.reduction is not None
    rivals = [
        rival.scores[rung - 1]
        for rival in trials
        if rival.trial.group == state.trial.group and rival.trial.id != state.trial.id and len(rival.scores) >= rung
    ]
    return not rivals or state.scores[-1] >= float(np.percentile(rivals, 100.0 * (1.0 - 1.0 / plan.reduction)))


def seed_of(plan: TuningPlan, *position: str | int) -> int:
    """Derive a 32-bit seed for a position in a plan."""
    text = ":".join(map(str, (plan.seed, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _values(plan: TuningPlan, request: TrialRequest) -> Mapping[str, float]:
    if request.values is not None:
        return request.values
    rng = np.random.default_rng(seed_of(plan, request.group, request.number))
    return {h.name: _sample(h, rng) for h in plan.hyperparameters}


def _sample(hyperparameter: Hyperparameter, rng: np.random.Generator) -> float:
    low, high = hyperparameter.low, hyperparameter.high
    if hyperparameter.log:
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))
