"""What measured devices say about one that is new: linear models of relative latency, and how alike the new one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from predictors.validation import check_measured

FEWEST = 3  # networks measured on the new device
_ROUNDS, _REWEIGHTINGS = 6, 3  # of learning how large weights are, and of the measurements in each
_MOST_ROWS = 2000  # of a table, from which weights are learned
_OUTLYING = 3.7  # times the median error, from where a measurement weighs half


@dataclass(frozen=True)
class Table:
    """Networks that were measured on one known device, ``name``: ``features_NF`` and their latency in ms."""

    features_NF: Floats
    latency_ms_N: Floats
    name: str = ""


@dataclass(frozen=True)
class Relatives:
    """What D measured devices say about another: weights of latency relative to that of a network with features
    ``centre_F``, one row per device, and the tables they were learnt from."""

    centre_F: Floats
    weights_DF: Floats
    tables: tuple[Table, ...]

    @classmethod
    def learn(cls, tables: Sequence[Table], read_C: NDArray[np.int64] | None = None) -> Relatives:
        """By the columns ``read_C`` of the features, None: all. Raises InvalidInput for no device, tables that differ
        in their features, or unusable numbers."""
        if not tables:
            raise InvalidInput("expected the tables of known devices, got none")
        for table in tables:
            check_rows(table.features_NF, table.latency_ms_N, tables[0].features_NF.shape[1], FEWEST)
        tables = [_part(table) for table in tables]
        centre_F = np.mean([t.features_NF.mean(0) for t in tables], axis=0)
        spread_F = np.mean([t.features_NF.std(0) for t in tables], axis=0)
        scale_F = 1.0 / np.where(spread_F > 1e-9 * np.abs(centre_F), spread_F, np.inf)
        if read_C is not None:
            scale_F[np.setdiff1d(np.arange(len(scale_F)), read_C)] = 0.0
        # Features that mattered little to all devices are held back on each, the next time.
        for _ in range(_ROUNDS):
            weights_DF = np.array([_own_weights(t.features_NF - centre_F, t.latency_ms_N, scale_F) for t in tables])
            scale_F = np.sqrt((weights_DF**2).mean(0))
        return cls(centre_F, weights_DF, tuple(tables))

    @cached_property
    def networks_MF(self) -> Floats:
        """The features of the M distinct networks that were measured on known devices."""
        rows = np.concatenate([table.features_NF for table in self.tables])
        return np.asarray(rows[distinct(rows)])

    def without(self, device: int) -> Relatives:
        """All but one of the devices."""
        remaining = [d for d in range(len(self.tables)) if d != device]
        return replace(self, weights_DF=self.weights_DF[remaining], tables=tuple(self.tables[d] for d in remaining))

    def errors(self, features_NF: Floats, latency_ms_N: Floats) -> Floats:
        """Root mean square error of each device's own model, once its scale and offset are fitted to N networks of
        another device; each network is left out of the fit that predicts it. Relative to their mean, shape (D,)."""
        guess_DN = 1.0 + self.weights_DF @ (features_NF - self.centre_F).T
        guess_DN = guess_DN - guess_DN.mean(1, keepdims=True)
        y_N = latency_ms_N / latency_ms_N.mean() - 1.0
        squares_D1 = np.maximum((guess_DN**2).sum(1, keepdims=True), 1e-12)
        slope_D1 = np.maximum(guess_DN @ y_N[:, None] / squares_D1, 0.0)
        leverage_DN = np.minimum(1.0 / len(y_N) + guess_DN**2 / squares_D1, 0.9)
        return np.asarray(np.sqrt((((y_N - slope_D1 * guess_DN) / (1.0 - leverage_DN)) ** 2).mean(1)))


def distinct(features_NF: Floats) -> list[int]:
    """The first of each of the rows that are equal, as indices in order."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(np.ascontiguousarray(features_NF)):
        first.setdefault(row.tobytes(), i)
    return list(first.values())


def _part(table: Table) -> Table:
    """A random part of a large table, which tells the weights as well."""
    if len(table.latency_ms_N) <= _MOST_ROWS:
        return table
    rows = np.sort(np.random.default_rng(0).permutation(len(table.latency_ms_N))[:_MOST_ROWS])
    return Table(table.features_NF[rows], table.latency_ms_N[rows], table.name)


def check_rows(features_NF: Floats, latency_ms_N: Floats, features: int, fewest: int) -> None:
    """Raises InvalidInput for another number of features or rows, and as ``check_measured``."""
    if features_NF.ndim != 2 or features_NF.shape != (len(latency_ms_N), features):
        raise InvalidInput(
            f"expected features of shape ({len(latency_ms_N)}, {features}), one row per latency, "
            f"got {features_NF.shape}"
        )
    check_measured(features_NF, latency_ms_N, fewest)


def _own_weights(x_NF: Floats, y_N: Floats, scale_F: Floats) -> Floats:
    """Weights of latency relative to that at the centre (features 0): ridge regression in units of ``scale_F``, its
    penalty chosen by the evidence, measurements far off (by their median) weighing less, as under Student's t."""
    used_F = scale_F > 0
    design_NF = x_NF[:, used_F] * scale_F[used_F]
    weight_N = np.ones(len(y_N))
    for _ in range(_REWEIGHTINGS):
        share_N = weight_N / weight_N.sum()
        centre_F, level = share_N @ design_NF, float(share_N @ y_N)
        root_N = np.sqrt(weight_N)
        weights_F = _ridge((design_NF - centre_F) * root_N[:, None], (y_N - level) * root_N)
        offset = level - centre_F @ weights_F
        error_N = y_N - offset - design_NF @ weights_F
        usual = max(float(np.median(np.abs(error_N))), 1e-9 * abs(level))
        weight_N = 1.0 / (1.0 + (error_N / (_OUTLYING * usual)) ** 2)
    out_F = np.zeros(len(scale_F))
    out_F[used_F] = weights_F * scale_F[used_F] / offset
    return out_F


def _ridge(x_NF: Floats, y_N: Floats) -> Floats:
    n, wide = len(y_N), x_NF.shape[1] > len(y_N)
    squares_R, turn_RR = np.linalg.eigh(x_NF @ x_NF.T if wide else x_NF.T @ x_NF)
    squares_R = np.maximum(squares_R, 0.0)
    axes_FR = x_NF.T @ turn_RR if wide else turn_RR  # of squared length squares_R if wide, else 1
    projected_R = axes_FR.T @ (x_NF.T @ y_N)
    if wide:
        length_R = np.sqrt(np.maximum(squares_R, 1e-12 * squares_R.max(initial=1e-300)))
        axes_FR, projected_R = axes_FR / length_R, projected_R / length_R
    total = max(float(y_N @ y_N), 1e-300)
    penalties = np.geomspace(1e-9, 1e2, 34)[:, None] * max(float(squares_R.max()), 1e-300)
    missed = total - (projected_R**2 / (squares_R + penalties)).sum(1)
    evidence = -0.5 * n * np.log(np.maximum(missed, 1e-12 * total)) - 0.5 * np.log1p(squares_R / penalties).sum(1)
    return np.asarray(axes_FR @ (projected_R / (squares_R + penalties[evidence.argmax()])))
