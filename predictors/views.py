"""Views of a network: groups of columns, each of which describes it in another way, to learn from few measurements.

Which view tells most depends on the device, so all are computed and the measurements choose among them: the choice of
every decision (``choices``), how often each choice occurs and what the network costs (``counts``), the features of the
space (``features``), its graph place by place (``graph``), and what its layers take by what the device took in other
spaces (``layers``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Decision, Floats, Genes, one_hot, sample
from nas.core.ports import SearchSpace
from nas.spaces.costs import COSTS
from predictors.layer_times import LayerTimes

FEATURES = "features"
LAYERS = "layers in other spaces"  # the cost that is the sum over layers
MOST_CHOICES = 12  # of a decision whose choices are columns of their own, if they are numbers
_POOL = 512  # random networks that show how far each column spreads


@dataclass(frozen=True)
class FeatureLayout:
    """How the F columns of networks divide into ``views``, by name, and which of them, by name, are ``costs``, which
    may predict a latency alone. ``centre_F`` and ``scale_F``: mean and standard deviation over the networks of
    ``pool_MF``, a sample of the space. ``features_C``: the columns that are the space's own features. ``layers``: by
    what the columns of layers were computed."""

    views: Mapping[str, NDArray[np.int64]]
    costs: Mapping[str, int]
    centre_F: Floats
    scale_F: Floats
    pool_MF: Floats
    features_C: NDArray[np.int64]
    layers: LayerTimes | None = None

    @staticmethod
    def single(features_NF: Floats) -> FeatureLayout:
        """One view and no costs, for features of which nothing is known but these networks."""
        columns_F = np.arange(features_NF.shape[1])
        return FeatureLayout({FEATURES: columns_F}, {}, features_NF.mean(0), features_NF.std(0), features_NF, columns_F)

    @property
    def additive_C(self) -> NDArray[np.int64]:
        """The columns that known devices are learned from: all but those of the graph, which are many, and those that
        equal an earlier one."""
        _, first = np.unique(self.pool_MF, axis=1, return_index=True)
        varying = first[self.scale_F[first] > 0]
        return np.setdiff1d(varying, self.views.get("graph", np.array([], dtype=np.int64)))

    @property
    def is_single(self) -> bool:
        """Whether the columns are the features of the space alone."""
        return len(self.features_C) == len(self.centre_F)

    @staticmethod
    def of(space: SearchSpace, layers: LayerTimes | None = None) -> FeatureLayout:
        """Of what ``network_features`` computes in a space; columns that never vary belong to no view."""
        parts = _parts(space, sample(space.decisions, np.random.default_rng(0), _POOL), layers)
        columns_NF = np.hstack(list(parts.values()))
        centre_F, scale_F = columns_NF.mean(0), columns_NF.std(0)
        scale_F = np.where(scale_F > 1e-9 * np.abs(centre_F), scale_F, 0.0)
        starts = np.cumsum([0, *(values_NC.shape[1] for values_NC in parts.values())])
        columns = {name: np.arange(*ends) for name, *ends in zip(parts, starts[:-1], starts[1:], strict=True)}
        views = {name: columns_C[scale_F[columns_C] > 0] for name, columns_C in columns.items()}
        costs = {name: int(columns["counts"][i]) for i, name in enumerate(_totals(space))}
        if layers is not None:
            costs = {LAYERS: int(columns["layers"][0]), **costs}
        return FeatureLayout(
            {name: columns_C for name, columns_C in views.items() if len(columns_C)},
            {name: column for name, column in costs.items() if scale_F[column] > 0},
            centre_F,
            scale_F,
            columns_NF,
            columns[FEATURES],
            layers,
        )


def network_features(space: SearchSpace, genes_NG: Genes, layers: LayerTimes | None = None) -> Floats:
    """The columns of all views of N networks, shape (N, F). ``layers``: what the device takes for layers, if known."""
    return np.hstack(list(_parts(space, genes_NG, layers).values()))


def _parts(space: SearchSpace, genes_NG: Genes, layers: LayerTimes | None) -> dict[str, Floats]:
    canonical_NG = space.canonical(genes_NG)
    encoding = space.graph_encoding
    return {
        "choices": _choices(space.decisions, canonical_NG),
        "counts": _counts(space, canonical_NG),
        FEATURES: space.features(canonical_NG),
        **({} if encoding is None else {"graph": encoding.columns(canonical_NG)}),
        **({} if layers is None else {"layers": layers.by_kind(space, canonical_NG)}),
    }


def _choices(decisions: Sequence[Decision], genes_NG: Genes) -> Floats:
    """One-hot; of decisions that are numbers of many choices, the value."""
    parts = [
        one_hot([decision], genes_NG[:, [g]]) if _is_listed(decision) else _values(decision)[genes_NG[:, [g]]]
        for g, decision in enumerate(decisions)
    ]
    return np.hstack(parts)


def _counts(space: SearchSpace, canonical_NG: Genes) -> Floats:
    """Costs and totals (``_totals``), then how often each choice occurs among the decisions that share choices."""
    costs = space.costs(canonical_NG)
    columns = [costs[name] for name in COSTS if name in costs]
    groups = _groups(space.decisions)
    for choices, members in groups.items():
        if _is_numeric(choices):
            columns.append(np.array(choices, dtype=np.float64)[canonical_NG[:, members]].sum(axis=1))
    for choices, members in groups.items():
        if len(members) > 1:
            columns += [(canonical_NG[:, members] == k).sum(axis=1).astype(np.float64) for k in range(len(choices))]
    return np.stack(columns, axis=1)


def _totals(space: SearchSpace) -> list[str]:
    """The first columns of ``_counts``: costs, and the sum of the values of decisions that share the same numbers."""
    costs = space.costs(np.zeros((1, len(space.decisions)), dtype=np.int64))
    groups = _groups(space.decisions)
    totals = [space.decisions[members[0]].axis for choices, members in groups.items() if _is_numeric(choices)]
    return [name for name in COSTS if name in costs] + [f"total {axis}" for axis in totals]


def _groups(decisions: Sequence[Decision]) -> dict[tuple[int | float | str, ...], list[int]]:
    """The decisions that share their choices."""
    groups: dict[tuple[int | float | str, ...], list[int]] = {}
    for g, decision in enumerate(decisions):
        groups.setdefault(decision.choices, []).append(g)
    return groups


def _values(decision: Decision) -> Floats:
    return np.array(decision.choices, dtype=np.float64)


def _is_numeric(choices: Sequence[int | float | str]) -> bool:
    return all(isinstance(choice, int | float) for choice in choices)


def _is_listed(decision: Decision) -> bool:
    return len(decision.choices) <= MOST_CHOICES or not _is_numeric(decision.choices)
