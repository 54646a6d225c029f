"""Predictors and what they are fitted to as bytes: plain arrays in npz, never pickled."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Floats, Genes
from nas.core.errors import StorageError
from nas.core.ports import LatencyPredictor, SearchSpace
from predictors.as_written import measured_space
from predictors.families.transfer import Table


def dump_predictor(predictor: LatencyPredictor) -> bytes:
    """The predictor's arrays; its family is kept beside them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **predictor.to_arrays())
    return buffer.getvalue()


@dataclass(frozen=True)
class DeviceMeasurements:
    """The measurements of a device: N networks and their latencies. Those ``held_out_N`` check predictors; none is
    fitted to them. ``error_N`` are the relative standard errors of the latencies, None where they are not known.
    ``as_written``: the networks were measured with their inactive parts, and their genes are not canonical."""

    genes_NG: Genes
    latency_ms_N: Floats
    held_out_N: NDArray[np.bool_]
    error_N: Floats | None = None
    as_written: bool = False

    def space(self, space: SearchSpace) -> SearchSpace:
        """The space in which the networks are fitted."""
        return measured_space(space, self.as_written)

    def table(self, space: SearchSpace) -> Table:
        """Features and latencies of all networks, as other devices learn from them."""
        return Table(self.space(space).features(self.genes_NG), self.latency_ms_N)

    def canonical(self, space: SearchSpace) -> DeviceMeasurements:
        """The measurements of canonical networks alone, which are those that a search can choose."""
        canonical_NG = space.canonical(self.genes_NG)
        if not self.as_written:
            return replace(self, genes_NG=canonical_NG)
        rows = (canonical_NG == self.genes_NG).all(axis=1)
        error_N = None if self.error_N is None else self.error_N[rows]
        return DeviceMeasurements(self.genes_NG[rows], self.latency_ms_N[rows], self.held_out_N[rows], error_N)

    def dump(self) -> bytes:
        """The measurements as bytes; ``load_measurements`` reads them back."""
        buffer = io.BytesIO()
        errors = {"error": self.error_N} if self.error_N is not None else {}
        np.savez(
            buffer,
            allow_pickle=False,
            genes=self.genes_NG,
            latency_ms=self.latency_ms_N,
            held_out=self.held_out_N,
            as_written=np.array(self.as_written),
            **errors,
        )
        return buffer.getvalue()


def load_measurements(data: bytes) -> DeviceMeasurements:
    """Inverse of ``DeviceMeasurements.dump``. Where an older version did not store which networks were held out, none
    is; its networks are canonical. Raises StorageError for damage."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            genes_NG, latency_ms_N = arrays["genes"], arrays["latency_ms"]
            held_out_N = arrays["held_out"] if "held_out" in arrays.files else np.zeros(len(genes_NG), dtype=bool)
            error_N = arrays["error"] if "error" in arrays.files else None
            as_written = "as_written" in arrays.files and bool(arrays["as_written"])
            return DeviceMeasurements(genes_NG, latency_ms_N, held_out_N, error_N, as_written)
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise StorageError(f"stored measurements cannot be read: {error}") from error


def load_predictor(family: str, data: bytes) -> LatencyPredictor:
    """Inverse of ``dump_predictor``. Raises UnknownName for a family that is not installed, StorageError for damage."""
    registered = registry.load_family(family)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return registered.from_arrays({k: arrays[k] for k in arrays.files})
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise StorageError(f"the stored {family} predictor cannot be read: {error}") from error
