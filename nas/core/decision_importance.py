"""Which decisions of a space matter for a metric, as far as the evaluated networks of a search show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.arch import Decision, Floats, Genes
from nas.core.errors import InvalidInput

FEWEST_NETWORKS = 24
MOST_NETWORKS = 2_000  # of more, evenly chosen ones: a fit stays below a second
_TREES = 100


@dataclass(frozen=True)
class DecisionImportance:
    """The share of a decision in what a forest explains of a metric, 0 to 1, over all decisions 1; and the mean of the
    metric by choice, None for a choice that no network has."""

    decision: str
    importance: float
    choices: tuple[str, ...]
    means: tuple[float | None, ...]


@dataclass(frozen=True)
class ImportanceReport:
    """The decisions, the most important first. ``explained``: the share of the metric's variance that the forest
    explains on networks that a tree did not see (R squared, out of bag): where it is low, importances say little."""

    metric: str
    networks: int
    explained: float
    decisions: tuple[DecisionImportance, ...]


def importance_of(
    metric: str, decisions: Sequence[Decision], genes_NG: Genes, value_N: Floats, seed: int = 0
) -> ImportanceReport:
    """Mean decrease of impurity in an ensemble of extremely randomised trees (Geurts et al. 2006, as in Optuna).

    Raises InvalidInput for fewer than ``FEWEST_NETWORKS`` networks and for a metric that is the same for all.
    """
    if len(value_N) < FEWEST_NETWORKS:
        raise InvalidInput(f"expected at least {FEWEST_NETWORKS} networks with {metric}, got {len(value_N)}")
    if np.ptp(value_N) == 0.0:
        raise InvalidInput(f"{metric} is the same for all {len(value_N)} networks: no decision matters")
    from sklearn.ensemble import ExtraTreesRegressor

    rows = np.linspace(0, len(value_N) - 1, min(MOST_NETWORKS, len(value_N))).round().astype(int)
    forest = ExtraTreesRegressor(_TREES, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=seed)
    forest.fit(genes_NG[rows], value_N[rows])
    reports = [
        DecisionImportance(
            decision.name,
            float(forest.feature_importances_[g]),
            tuple(str(choice) for choice in decision.choices),
            tuple(_mean(value_N[genes_NG[:, g] == k]) for k in range(len(decision.choices))),
        )
        for g, decision in enumerate(decisions)
    ]
    reports.sort(key=lambda report: -report.importance)
    return ImportanceReport(metric, len(rows), float(forest.oob_score_), tuple(reports))


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
