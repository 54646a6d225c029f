"""Which network of a front to ship: rules over the quality that decides membership and one cost."""

from __future__ import annotations

from typing import Literal

import numpy as np

from nas.core.arch import Floats
from nas.core.errors import InvalidInput

Rule = Literal["within", "knee", "best", "fastest"]
DEFAULT_SLACK = 0.5  # points of the quality


def choose(rule: Rule, merit_N: Floats, cost_N: Floats, slack: float = DEFAULT_SLACK) -> int:
    """The position of the network that a rule recommends; ``merit_N`` is the quality, of which more is better.

    ``within``: the cheapest whose quality is at most ``slack`` points below the best; ``knee``: where more quality
    becomes expensive; ``best`` and ``fastest``: the ends, ties by the other value. Raises InvalidInput for no networks
    and for a negative slack.
    """
    if len(merit_N) == 0:
        raise InvalidInput("expected networks to choose from, got none")
    if slack < 0:
        raise InvalidInput(f"slack: expected at least 0 points, got {slack:g}")
    match rule:
        case "best":
            return int(np.lexsort((cost_N, -merit_N))[0])
        case "fastest":
            return int(np.lexsort((-merit_N, cost_N))[0])
        case "within":
            close = np.flatnonzero(merit_N >= merit_N.max() - slack - 1e-9)
            return int(close[np.lexsort((-merit_N[close], cost_N[close]))[0]])
        case "knee":
            return _knee(merit_N, cost_N)


def _knee(merit_N: Floats, cost_N: Floats) -> int:
    """The network farthest above the straight line between the ends of the front, both axes scaled to 0..1 (Das,
    "On characterizing the 'knee' of the Pareto curve", 1999); of fewer than three networks the best."""
    order = np.lexsort((-merit_N, cost_N))
    merit, cost = merit_N[order], cost_N[order]
    spread_merit, spread_cost = merit.max() - merit.min(), cost.max() - cost.min()
    if len(order) < 3 or spread_merit == 0 or spread_cost == 0:
        return choose("best", merit_N, cost_N)
    height = (merit - merit.min()) / spread_merit - (cost - cost.min()) / spread_cost
    return int(order[int(np.argmax(height))])
