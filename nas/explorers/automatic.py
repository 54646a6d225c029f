"""Which explorer a search uses where its spec leaves that open, and in how many rounds it asks it."""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np

ExplorerName = Literal["auto", "nsga2", "bayesian"]

BAYESIAN_EVALUATIONS = 256  # up to as many, each evaluation is worth the time of a process that says where to look
ROUNDS = 8  # at least, where there are as many evaluations
BATCH = 8  # networks that the Bayesian explorer proposes at once, at most


def chosen_explorer(name: ExplorerName, evaluations: int) -> Literal["nsga2", "bayesian"]:
    """The explorer for a budget of ``evaluations``, those that are inherited included."""
    if name != "auto":
        return name
    return "bayesian" if evaluations <= BAYESIAN_EVALUATIONS else "nsga2"


def round_sizes(explorer: Literal["nsga2", "bayesian"], evaluations: int) -> tuple[int, ...]:
    """How many networks each round evaluates. A process learns from every round, so its rounds are small."""
    rounds = max(ROUNDS, ceil(evaluations / BATCH)) if explorer == "bayesian" else ROUNDS
    return tuple(len(part) for part in np.array_split(np.arange(evaluations), min(rounds, evaluations)))
