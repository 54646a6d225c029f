"""One trial after the other: random hyperparameters, successive halving, the same end however often it is cut."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from nas.core.errors import Diverged
from nas.core.tuning import Ask, Knob, Learner, Plan, Trial, TrialState


def in_turn(plan: Plan, learn: Learner, known: Mapping[str, TrialState]) -> Iterator[TrialState]:
    """A ``Tuner`` for one process. What it proposes and whom it stops depends on the plan and earlier trials only."""
    states = dict(known)
    for ask in plan.asks:
        state = states.get(ask.id) or TrialState(Trial(ask.group, ask.number, _values(plan, ask)))
        if state.status != "running":
            continue
        try:
            for lesson in learn(state.trial, state.blob):
                state = replace(state, scores=lesson.scores, blob=lesson.blob or state.blob)
                if len(state.scores) == plan.epochs:
                    state = replace(state, status="finished")
                elif not goes_on(plan, state, states.values()):
                    state = replace(state, status="pruned")
                states[ask.id] = state
                yield state
                if state.status != "running":
                    break
        except Diverged as error:
            states[ask.id] = replace(state, status="failed", message=str(error))
            yield states[ask.id]


def goes_on(plan: Plan, state: TrialState, others: Iterable[TrialState]) -> bool:
    """Whether a trial that has come to a rung is good enough; True where there is none."""
    rung = len(state.scores)
    if rung not in plan.rungs:
        return True
    assert plan.reduction is not None
    rivals = [
        other.scores[rung - 1]
        for other in others
        if other.trial.group == state.trial.group and other.trial.id != state.trial.id and len(other.scores) >= rung
    ]
    return not rivals or state.scores[-1] >= float(np.percentile(rivals, 100.0 * (1.0 - 1.0 / plan.reduction)))


def seed_of(plan: Plan, *position: str | int) -> int:
    """A seed for a part of a plan, 32 bits."""
    text = ":".join(map(str, (plan.seed, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _values(plan: Plan, ask: Ask) -> Mapping[str, float]:
    if ask.values is not None:
        return ask.values
    rng = np.random.default_rng(seed_of(plan, ask.group, ask.number))
    return {knob.name: _drawn(knob, rng) for knob in plan.knobs}


def _drawn(knob: Knob, rng: np.random.Generator) -> float:
    if knob.log:
        return math.exp(rng.uniform(math.log(knob.low), math.log(knob.high)))
    return float(rng.uniform(knob.low, knob.high))
