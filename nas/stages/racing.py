"""Races: networks are scored on a growing part of the validation images, and given up once they are hardly going to
reach the front (Maron and Moore, Hoeffding races, NeurIPS 1993; here against all objectives, with the standard error of
an accuracy in place of Hoeffding's bound, and parts that double as in successive halving)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from nas.core.arch import Arch, Floats
from nas.core.events import Origin, SearchState
from nas.core.pareto import weakly_dominated
from nas.core.ports import History, Problem

FIRST_PART = 1024  # images; the second look is at twice as many, and so on
STANDARD_ERRORS = 2.58  # by which an accuracy may turn out better: a chance of one in two hundred
IMAGES_METRIC = "val_images"  # of networks that were given up: on how many images they were scored
SurvivesRung = Callable[[float, int], bool]
"""Whether a network with a quality over so many images is to be scored on more."""


def always(_quality: float, _images: int) -> bool:
    """Goes on to all images."""
    return True


@dataclass(frozen=True)
class Race:
    """What a network competes with. ``score`` scores one as long as it goes on; ``known_NM``: losses of the networks
    that were scored on all images and meet the bounds; ``quality_column``: the one of minus the accuracy."""

    score: Callable[[Arch, SurvivesRung], dict[str, float]]
    known_NM: Floats
    quality_column: int

    def run(self, arch: Arch, cost_M: Floats) -> dict[str, float]:
        """The metrics of a network with known costs, whose quality is not."""

        def survives_rung(quality: float, images: int) -> bool:
            hoped_M = cost_M.copy()
            hoped_M[self.quality_column] = -optimistic(quality, images)
            return not weakly_dominated(hoped_M[None], self.known_NM)[0]

        return self.score(arch, survives_rung)


def race_of(
    problem: Problem, state: SearchState, origin: Origin, history: History, score: Callable[..., dict[str, float]]
) -> Race | None:
    """The race of the next networks of an origin; None before any was scored, and where networks are scored at once:
    on few images, by another quality than the share of images that are right, or for several fronts."""
    task = problem.spec.task
    is_share = task.name == "single_label"
    if not is_share or len(problem.spec.views) > 1 or len(problem.data.val) <= FIRST_PART:
        return None
    complete_N = np.array([IMAGES_METRIC not in candidate.metrics for candidate in state.of(origin)], dtype=bool)
    known_NM = history.losses_NM[complete_N & (history.violation_N == 0)]
    column = [objective.name for objective in problem.spec.objectives].index(task.objective)
    return Race(score, known_NM, column) if len(known_NM) else None


def optimistic(accuracy: float, images: int) -> float:
    """The accuracy in % that one over so many images hardly exceeds."""
    share = (accuracy / 100 * images + 1) / (images + 2)  # Laplace's estimate, which is never 0 or 1
    return min(100.0, accuracy + 100 * STANDARD_ERRORS * sqrt(share * (1 - share) / images))


def scored_share(problem: Problem, state: SearchState) -> float | None:
    """The share of the validation images that the networks of search and baseline were scored on; None where all
    were scored on all."""
    images = len(problem.data.val)
    candidates = [*state.of("search"), *state.of("baseline")]
    shares = [candidate.metrics.get(IMAGES_METRIC, images) / images for candidate in candidates]
    return float(np.mean(shares)) if shares and min(shares) < 1 else None
