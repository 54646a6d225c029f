"""What a search comes to when all of its stages are done: bounds that no network meets, networks that only guess."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.conclusion import Conclusion
from nas.core.events import Candidate, SearchState
from nas.core.metrics import BOUND_METRIC, METRICS
from nas.core.ports import Problem, Split
from nas.core.spec import SearchSpec
from nas.stages.fronts import front_of, guiding_metric, state_on

_CONFIDENCE = 1.645  # standard deviations that chance exceeds in one search of twenty


def conclude(problem: Problem, state: SearchState) -> tuple[Conclusion, ...]:
    """All that a reader of the results has to know first; empty for a front of networks that have learned."""
    if not state.of("search"):
        return ()
    return (*_empty_fronts(problem, state), *_guessing(problem, state))


def _empty_fronts(problem: Problem, state: SearchState) -> Iterator[Conclusion]:
    for view in problem.spec.views:
        if front_of(problem.spec, state, device=view).members:
            continue
        spec, known_state = (problem.spec, state) if view is None else (problem.spec.on(view), state_on(state, view))
        where = f" on {view}" if view is not None else ""
        reaches = [_reach(spec, known_state, o.name, bound) for o in spec.objectives if (bound := spec.bound(o.name))]
        if reaches:
            yield Conclusion("bounds_unmet", f"no network meets every bound{where}: {'; '.join(map(str, reaches))}")
        else:
            yield Conclusion("no_front", f"no network could be evaluated in full{where}: the front is empty")


@dataclass(frozen=True)
class BoundReach:
    """How many of ``networks`` meet one bound, and the ``best`` value of any; None where none has the metric."""

    objective: str
    metric: str
    bound: float
    met: int
    networks: int
    best: float | None

    def __str__(self) -> str:
        info = METRICS[self.metric]
        side = "at least" if info.goal == "max" else "at most"
        best = "none has a value" if self.best is None else f"the best value is {self.best:.4g} {info.unit}".rstrip()
        limit = f"{side} {self.bound:g} {info.unit}".rstrip()
        return f"{self.objective} of {limit}: met by {self.met} of {self.networks} networks, {best}"


def _reach(spec: SearchSpec, state: SearchState, objective: str, bound: float) -> BoundReach:
    candidates = state.of("search")
    metric = _bounded_metric(spec, state, objective, candidates)
    values = np.array([c.metrics[metric] for c in candidates if metric in c.metrics])
    maximised = METRICS[metric].goal == "max"
    met = int((values >= bound).sum() if maximised else (values <= bound).sum())
    best = None if len(values) == 0 else float(values.max() if maximised else values.min())
    return BoundReach(objective, metric, bound, met, len(candidates), best)


def _bounded_metric(spec: SearchSpec, state: SearchState, objective: str, candidates: Sequence[Candidate]) -> str:
    """The metric that the final front holds against a bound."""
    task = spec.task
    if objective == task.objective:
        return task.trained if spec.retrain is not None else guiding_metric(state.finished) or task.estimated
    if objective == "latency" and any("measured_ms" in c.metrics for c in candidates):
        return "measured_ms"
    return BOUND_METRIC[objective]


def _guessing(problem: Problem, state: SearchState) -> Iterator[Conclusion]:
    """Whether the best tested network is better than an answer that looks at no image."""
    task = problem.spec.task
    tested = [c.metrics for c in state.of("search") if task.tested in c.metrics]
    if not tested:
        return
    if task.labels != "class":
        yield from _no_better_than_blind(problem, max(tested, key=lambda m: task.merit(m[task.tested]))[task.tested])
        return
    level = guess_level(problem.data.test, problem.data.shape.classes)
    best = max(metrics["test_accuracy"] for metrics in tested)
    balanced = max(metrics.get("test_balanced_accuracy", 0.0) for metrics in tested)
    if best > level.majority_limit and balanced > level.chance_limit:
        return
    figures = f"the best test accuracy is {best:.1f} %, the best balanced accuracy {balanced:.1f} %"
    if level.majority - level.chance < 1.0:
        yield Conclusion(
            "chance_level", f"no network is better than guessing: {figures}, and guessing achieves {level.chance:.1f} %"
        )
    else:
        yield Conclusion(
            "majority_level",
            f"no network is better than always naming the largest class: {figures}, and the largest class has "
            f"{level.majority:.1f} % of the test images (balanced: {level.chance:.1f} %)",
        )


def _no_better_than_blind(problem: Problem, best: float) -> Iterator[Conclusion]:
    task, unit = problem.spec.task, f" {problem.spec.task.quality.unit}".rstrip()
    guess = task.guess(problem.data.test.labels, problem.data.shape.classes)
    if task.merit(best) <= task.merit(guess):
        yield Conclusion(
            "chance_level",
            f"no network is better than an answer that looks at no image: the best {task.quality.title} on test images "
            f"is {best:.3g}{unit}, and such an answer achieves {guess:.3g}{unit}",
        )


@dataclass(frozen=True)
class GuessLevel:
    """Accuracies in % of answers that look at no image: ``majority`` by naming the largest class, ``chance`` balanced
    over classes; and the limits that chance exceeds in one test of twenty."""

    majority: float
    chance: float
    majority_limit: float
    chance_limit: float


def guess_level(test: Split, classes: int) -> GuessLevel:
    """The level for test images with at least one of every class."""
    counts_K = np.bincount(test.labels, minlength=classes)
    majority, chance = counts_K.max() / len(test), 1.0 / classes
    deviation = math.sqrt(majority * (1 - majority) / len(test))
    balanced_deviation = chance * math.sqrt(float((chance * (1 - chance) / np.maximum(counts_K, 1)).sum()))
    return GuessLevel(
        majority=100.0 * majority,
        chance=100.0 * chance,
        majority_limit=100.0 * (majority + _CONFIDENCE * deviation),
        chance_limit=100.0 * (chance + _CONFIDENCE * balanced_deviation),
    )
