"""A checked table of latencies, and whether its networks were measured as they are written or simplified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace
from predictors.families.bayesian_linear import BayesianLinear
from predictors.validation import held_out_ms

ENERGY = "energy_mj"
_FEWEST_COMPARED = 40  # networks of which can be told whether they are learned better as written
_MOST_COMPARED = 600


@dataclass(frozen=True)
class LatencyTable:
    """Distinct networks and what they take: ``latency_ms_DN`` of each of D devices, NaN where it is not known; others
    (``energy_mj``, ``peak_mb``) by name, and ``energies_mj`` by device, each (N,). ``as_written``: the networks were
    measured with their inactive parts, so that the genes are not canonical."""

    genes_NG: Genes
    devices: tuple[str, ...]
    latency_ms_DN: Floats
    extras: Mapping[str, Floats]
    as_written: bool = False
    energies_mj: Mapping[str, Floats] = field(default_factory=dict)

    def energy_of(self, device: str) -> Floats | None:
        """The energies of a device in mJ, shape (N,), NaN where they are not known; None if there are none. A column
        without a name is that of the only device."""
        return self.energies_mj.get(device, self.extras.get(ENERGY) if len(self.devices) == 1 else None)


def simplified(space: SearchSpace, table: LatencyTable) -> LatencyTable:
    """Every simplified network once, in the order of the table, with the medians of its rows."""
    canonical_NG, first_M, network_N = np.unique(
        space.canonical(table.genes_NG), axis=0, return_index=True, return_inverse=True
    )
    order_M = np.argsort(first_M)

    def medians(values_N: Floats) -> Floats:
        if len(order_M) == len(values_N):
            return values_N[first_M[order_M]]
        groups = np.split(
            values_N[np.argsort(network_N.ravel(), kind="stable")], np.cumsum(np.bincount(network_N.ravel()))[:-1]
        )
        finite_groups = [group[np.isfinite(group)] for group in groups]
        return np.array([np.median(group) if len(group) else np.nan for group in finite_groups])[order_M]

    return LatencyTable(
        canonical_NG[order_M],
        table.devices,
        np.array([medians(values_N) for values_N in table.latency_ms_DN]),
        {name: medians(values_N) for name, values_N in table.extras.items()},
        False,
        {name: medians(values_N) for name, values_N in table.energies_mj.items()},
    )


def measured_as_written(space: SearchSpace, table: LatencyTable) -> bool:
    """Whether networks were measured with their inactive parts: rows that are equal once they are simplified have
    unequal values, and that is no noise, since values are learned better from all parts."""
    if space.features_as_written is None:
        return False
    columns = np.array([*table.latency_ms_DN, *table.extras.values()])
    canonical_NG = space.canonical(table.genes_NG)
    _, network_N = np.unique(canonical_NG, axis=0, return_inverse=True)
    order = np.argsort(network_N.ravel(), kind="stable")
    same_N = np.diff(network_N.ravel()[order]) == 0
    unequal_N = (np.diff(columns[:, order], axis=1) != 0).any(0)  # a value that is missing equals none
    if not (same_N & unequal_N).any():
        return False
    fullest_N = columns[np.isfinite(columns).sum(1).argmax()]
    rows = np.flatnonzero(np.isfinite(fullest_N))[:_MOST_COMPARED]
    if len(rows) < _FEWEST_COMPARED:
        return True
    genes_MG, y_M = table.genes_NG[rows], fullest_N[rows]
    error_ms = [
        float(np.median(np.abs(held_out_ms(BayesianLinear.fit_mean, features_MF, y_M, 5, 0) / y_M - 1.0)))
        for features_MF in (space.features_as_written(genes_MG), space.features(genes_MG))
    ]
    return error_ms[0] < error_ms[1]
