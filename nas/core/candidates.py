"""Evaluated networks as columns: a hundred thousand fit into a few megabytes, and fronts are found on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Arch, Floats
from nas.core.device import Latency, Measurement, OnDevice, Status
from nas.core.errors import InvalidInput
from nas.core.events import Candidate, Origin
from nas.core.metrics import METRICS, SHARES
from nas.core.pareto import Mask, weakly_dominated
from nas.core.tasks import installed_tasks

ORIGINS: tuple[Origin, ...] = get_args(Origin)
STATUSES: tuple[Status, ...] = get_args(Status)
_PREDICTED_COSTS = ("predicted_ms", "upper_ms", "params", "macs")
_ARRAYS = ("genes_NG", "origin_N", "status_N", "metrics_NM", "promised_ms_N", "extrapolated_N", "latency_ms_NDV")
_MEASUREMENT_BYTES = 2048  # about what one takes in memory

Rows = NDArray[np.intp]


def predicted_metrics() -> frozenset[str]:
    """The metrics by which ``CandidateTable.non_dominated`` is known."""
    return frozenset((*_PREDICTED_COSTS, *(task.estimated for task in installed_tasks().values())))


@cache
def _columns() -> dict[str, int]:
    return {name: i for i, name in enumerate(METRICS)}


@dataclass(frozen=True)
class CandidateTable:
    """N networks of one space; references of other spaces have their metrics, and genes of 0.

    ``origin_N`` and ``status_N`` index ``ORIGINS`` and ``STATUSES``; the columns of ``metrics_NM`` are those of
    ``METRICS``, NaN where a network has no such metric; ``promised_ms_N`` is NaN where nothing is promised.
    ``measurements`` are by row. In a search over a fleet, ``latency_ms_NDV`` holds what was predicted for each of
    ``devices``, mean and upper bound, and ``measured`` by row what was measured on any. ``extrapolated_N``: 1 outside
    the predictor's domain, 0 inside, -1 where it has none. ``non_dominated``: the sorted rows that a front over exact,
    estimated and predicted metrics can hold, or None if not computed. Never changed in place."""

    space: str = ""
    genes_NG: NDArray[np.int16] = field(default_factory=lambda: np.empty((0, 0), np.int16))
    origin_N: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    status_N: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    metrics_NM: Floats = field(default_factory=lambda: np.empty((0, len(_columns()))))
    promised_ms_N: Floats = field(default_factory=lambda: np.empty(0))
    extrapolated_N: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    measurements: Mapping[int, Measurement] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    latency_ms_NDV: Floats = field(default_factory=lambda: np.empty((0, 0, 2)))
    measured: Mapping[int, Mapping[str, OnDevice]] = field(default_factory=dict)
    non_dominated: Rows | None = None

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> CandidateTable:
        """Candidates as columns, in order. Raises InvalidInput for networks of several spaces, references aside."""
        candidates = list(candidates)
        return cls.from_columns(
            spaces=[p.arch.space for p in candidates],
            genes=[p.arch.genes for p in candidates],
            origins=[p.origin for p in candidates],
            statuses=[p.status for p in candidates],
            metrics=[p.metrics for p in candidates],
            promises_ms=[p.promised_ms for p in candidates],
            measurements={i: p.measurement for i, p in enumerate(candidates) if p.measurement is not None},
            devices=[p.devices for p in candidates],
            extrapolated=[p.extrapolated for p in candidates],
        )

    @classmethod
    def from_columns(
        cls,
        spaces: Sequence[str],
        genes: Sequence[Sequence[int]],
        origins: Sequence[str],
        statuses: Sequence[str],
        metrics: Sequence[Mapping[str, float]],
        promises_ms: Sequence[float | None],
        measurements: Mapping[int, Measurement],
        devices: Sequence[Mapping[str, OnDevice]],
        extrapolated: Sequence[bool | None],
    ) -> CandidateTable:
        """A table from lists of equal length. Raises InvalidInput for networks of several spaces, references aside."""
        if not spaces:
            return cls()
        searched = [i for i, origin in enumerate(origins) if origin != "reference"] or [0]
        space, width = spaces[searched[0]], len(genes[searched[0]])
        if any(spaces[i] != space or len(genes[i]) != width for i in searched):
            space_ids = sorted({spaces[i] for i in searched})
            raise InvalidInput(f"expected networks of one space, with equal numbers of genes, got {space_ids}")
        genes = [row if own == space else [0] * width for own, row in zip(spaces, genes, strict=True)]
        values = [[m.get(name, np.nan) for name in _columns()] for m in metrics]
        names = tuple(dict.fromkeys(name for parts in devices for name in parts))
        unknown = OnDevice(np.nan, np.nan)
        latency_ms = [[(d.predicted_ms, d.upper_ms) for n in names for d in [p.get(n, unknown)]] for p in devices]
        return cls(
            space=space,
            genes_NG=np.array(genes, dtype=np.int16),
            origin_N=np.array([ORIGINS.index(o) for o in origins], dtype=np.int8),
            status_N=np.array([STATUSES.index(s) for s in statuses], dtype=np.int8),
            metrics_NM=np.array(values, dtype=np.float64),
            promised_ms_N=np.array([np.nan if c is None else c for c in promises_ms], dtype=np.float64),
            extrapolated_N=np.array([-1 if flag is None else flag for flag in extrapolated], dtype=np.int8),
            measurements=measurements,
            devices=names,
            latency_ms_NDV=np.array(latency_ms, dtype=np.float64).reshape(len(spaces), len(names), 2),
            measured={
                i: parts for i, parts in enumerate(devices) if any(d.measurement is not None for d in parts.values())
            },
        )

    def __len__(self) -> int:
        return len(self.origin_N)

    @property
    def nbytes(self) -> int:
        """Memory that the table takes, about."""
        arrays = (getattr(self, f.name) for f in fields(self) if f.name.endswith(("_N", "_NG", "_NM", "_NDV")))
        non_dominated = self.non_dominated.nbytes if self.non_dominated is not None else 0
        measurements = len(self.measurements) + len(self.devices) * len(self.measured)
        return int(sum(a.nbytes for a in arrays)) + non_dominated + _MEASUREMENT_BYTES * measurements

    def metric(self, name: str) -> Floats:
        """One metric of all networks, NaN where it is missing, shape (N,)."""
        return self.metrics_NM[:, _columns()[name]]

    def of_origin(self, origin: Origin) -> Rows:
        """The rows of one origin."""
        return np.flatnonzero(self.origin_N == ORIGINS.index(origin))

    def candidate(self, row: int) -> Candidate:
        """One network."""
        values = self.metrics_NM[row].tolist()
        promised_ms = float(self.promised_ms_N[row])
        return Candidate(
            arch=Arch(self.space, tuple(self.genes_NG[row].tolist())),
            origin=ORIGINS[self.origin_N[row]],
            metrics={name: value for name, value in zip(_columns(), values, strict=True) if value == value},
            status=STATUSES[self.status_N[row]],
            promised_ms=promised_ms if promised_ms == promised_ms else None,
            measurement=self.measurements.get(row),
            devices=self.measured.get(row) or self._predicted(row),
            extrapolated=None if self.extrapolated_N[row] < 0 else bool(self.extrapolated_N[row]),
        )

    def _predicted(self, row: int) -> dict[str, OnDevice]:
        pairs = zip(self.devices, self.latency_ms_NDV[row].tolist(), strict=True)
        return {name: OnDevice(*latency_ms) for name, latency_ms in pairs if latency_ms[0] == latency_ms[0]}

    def updated(self, rows: Rows, changed: CandidateTable) -> CandidateTable:
        """A table with ``rows`` replaced by those of ``changed`` and ``non_dominated`` updated; rows beyond the end are
        new. Raises InvalidInput for networks of another space, references aside."""
        if len(rows) == 0:
            return self
        if len(self) and changed.space != self.space and (changed.origin_N == ORIGINS.index("reference")).all():
            width = self.genes_NG.shape[1]
            changed = replace(changed, space=self.space, genes_NG=np.zeros((len(changed), width), np.int16))
        if len(self) and (self.space, self.genes_NG.shape[1]) != (changed.space, changed.genes_NG.shape[1]):
            raise InvalidInput(f"expected networks of the space {self.space}, got one of {changed.space}")
        if len(self) and self.devices != changed.devices:
            raise InvalidInput(f"expected networks on the devices {self.devices}, got some on {changed.devices}")
        n = max(len(self), int(rows.max()) + 1)
        columns = {}
        for name in _ARRAYS:
            old, new = getattr(self, name), getattr(changed, name)
            columns[name] = np.empty((n, *new.shape[1:]), new.dtype, order="F")
            columns[name][: len(self)] = old if len(self) else new[:0]
            columns[name][rows] = new
        places = rows.tolist()
        replaced_rows = set(places)
        unchanged = {row: m for row, m in self.measurements.items() if row not in replaced_rows}
        moved = {places[i]: m for i, m in changed.measurements.items()}
        parts = {row: p for row, p in self.measured.items() if row not in replaced_rows}
        parts |= {places[i]: p for i, p in changed.measured.items()}
        table = CandidateTable(
            space=changed.space, measurements={**unchanged, **moved}, devices=changed.devices, measured=parts, **columns
        )
        existing_rows = rows[rows < len(self)]
        same = np.array_equal(
            self._predicted_losses(existing_rows), table._predicted_losses(existing_rows), equal_nan=True
        )
        start = len(self) if self.non_dominated is not None and same else 0
        return replace(table, non_dominated=table._non_dominated(start, self.non_dominated if start else None))

    def _predicted_losses(self, rows: Rows) -> Floats:
        """What fronts of unmeasured networks are made of, and bounded by, to be minimised; shape (N, 5). Quality is
        that of the only task that the networks have one of."""
        quality_N = np.full(len(rows), np.nan)
        for task in installed_tasks().values():
            value_N = self.metric(task.estimated)[rows]
            quality_N = np.where(np.isnan(quality_N), -value_N if task.maximised else value_N, quality_N)
        return np.stack([quality_N, *(self.metric(m)[rows] for m in _PREDICTED_COSTS)], axis=1)

    def _non_dominated(self, start: int, before: Rows | None) -> Rows:
        """The non-dominated rows, given those ``before`` row ``start``. Rows that lack a metric stay and dominate
        none."""
        non_dominated_rows = [before] if before is not None else []
        for origin in ORIGINS:
            rows = self.of_origin(origin)
            rows = rows[rows >= start]
            losses, full = self._full(rows)
            older = before[self.origin_N[before] == ORIGINS.index(origin)] if before is not None else rows[:0]
            older_losses, older_full = self._full(older)
            stays = np.ones(len(rows), dtype=bool)
            stays[full] = ~weakly_dominated(losses[full], older_losses[older_full])
            non_dominated_rows.append(rows[stays])
        return np.sort(np.concatenate(non_dominated_rows))

    def _full(self, rows: Rows) -> tuple[Floats, Mask]:
        losses = self._predicted_losses(rows)
        return losses, np.asarray(~np.isnan(losses).any(axis=1))

    def with_latency(self, latency: Latency) -> CandidateTable:
        """The same networks with other predictions, N of them, no energies, nothing claimed or measured, and no domain
        of the predictions."""
        metrics_NM = self.metrics_NM.copy()
        for name in (*SHARES, *SHARES.values(), "predicted_mj", "upper_mj"):
            metrics_NM[:, _columns()[name]] = np.nan
        metrics_NM[:, _columns()["predicted_ms"]] = latency.mean_ms
        metrics_NM[:, _columns()["upper_ms"]] = latency.upper_ms
        return replace(
            self,
            metrics_NM=metrics_NM,
            status_N=np.full(len(self), STATUSES.index("unverified"), dtype=np.int8),
            promised_ms_N=np.full(len(self), np.nan),
            extrapolated_N=np.full(len(self), -1, dtype=np.int8),
            measurements={},
            devices=(),
            latency_ms_NDV=np.empty((len(self), 0, 2)),
            measured={},
            non_dominated=None,
        )

    def on(self, device: str) -> CandidateTable:
        """The networks with their metrics on one device of the fleet; ``devices`` still holds the others."""
        mean_ms_N, upper_ms_N = self.latency_ms_NDV[:, self.devices.index(device)].T
        table = self.with_latency(Latency(mean_ms_N, upper_ms_N))
        measurements = {}
        for row, parts in self.measured.items():
            part = parts[device]
            table.status_N[row] = STATUSES.index(part.status)
            table.promised_ms_N[row] = np.nan if part.promised_ms is None else part.promised_ms
            table.metrics_NM[row, _columns()["measured_ms"]] = np.nan if part.measured_ms is None else part.measured_ms
            if part.measurement is not None:
                measurements[row] = part.measurement
        return replace(
            table,
            extrapolated_N=self.extrapolated_N,
            measurements=measurements,
            devices=self.devices,
            latency_ms_NDV=self.latency_ms_NDV,
            measured=self.measured,
        )
