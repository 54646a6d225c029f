"""Predictors and what they are fitted to as bytes: plain arrays in npz, never pickled."""

from __future__ import annotations

import hashlib
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
from predictors.layer_times import LayerTimes, MeasuredWork
from predictors.relatives import Table
from predictors.views import network_features


def dump_predictor(predictor: LatencyPredictor) -> bytes:
    """The predictor's arrays; its family is kept beside them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **predictor.to_arrays())
    return buffer.getvalue()


@dataclass(frozen=True)
class DeviceMeasurements:
    """The measurements of a device: N networks and their latencies. Those ``held_out_N`` check predictors; none is
    fitted to them. ``error_N`` are the relative standard errors of the latencies, None where they are not known.
    ``as_written``: the networks were measured with their inactive parts, and their genes are not canonical. ``work``:
    of their layers, by which the device is known in other spaces; None where it is not stored. ``device`` and
    ``space_id`` say where they come from, and ``decisions`` is the key of what the genes choose (``decisions_key``);
    empty where older versions did not store them.
    """

    genes_NG: Genes
    latency_ms_N: Floats
    held_out_N: NDArray[np.bool_]
    error_N: Floats | None = None
    as_written: bool = False
    work: MeasuredWork | None = None
    device: str = ""
    space_id: str = ""
    decisions: str = ""

    @staticmethod
    def of(
        device: str,
        space: SearchSpace,
        genes_NG: Genes,
        latency_ms_N: Floats,
        held_out_N: NDArray[np.bool_],
        error_N: Floats | None = None,
        as_written: bool = False,
        layers: MeasuredWork | None = None,
    ) -> DeviceMeasurements:
        """What a device takes for networks of a space, and for single ``layers``, if these were measured."""
        simple_N = (space.canonical(genes_NG) == genes_NG).all(axis=1)
        work = MeasuredWork.of_networks(space, genes_NG[simple_N], latency_ms_N[simple_N]) if simple_N.any() else None
        if work is not None and layers is not None:
            work = work.with_rows(layers)
        key = decisions_key(space)
        return DeviceMeasurements(genes_NG, latency_ms_N, held_out_N, error_N, as_written, work, device, space.id, key)

    def space(self, space: SearchSpace) -> SearchSpace:
        """The space in which the networks are fitted."""
        return measured_space(space, self.as_written)

    def table(self, space: SearchSpace, name: str = "", layers: LayerTimes | None = None) -> Table:
        """The columns of all views and the latencies of all networks, as other devices learn from them."""
        return Table(network_features(self.space(space), self.genes_NG, layers), self.latency_ms_N, name)

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
            origin=np.array([self.device, self.space_id, self.decisions]),
            **errors,
            **({} if self.work is None else self.work.to_arrays()),
        )
        return buffer.getvalue()


def decisions_key(space: SearchSpace) -> str:
    """Equal for spaces whose genes choose the same, whatever their images are."""
    text = repr([space.name, *((decision.name, decision.choices) for decision in space.decisions)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_measurements(data: bytes) -> DeviceMeasurements:
    """Inverse of ``DeviceMeasurements.dump``. Where an older version did not store which networks were held out, none
    is; its networks are canonical. Raises StorageError for damage."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            genes_NG, latency_ms_N = arrays["genes"], arrays["latency_ms"]
            held_out_N = arrays["held_out"] if "held_out" in arrays.files else np.zeros(len(genes_NG), dtype=bool)
            error_N = arrays["error"] if "error" in arrays.files else None
            as_written = "as_written" in arrays.files and bool(arrays["as_written"])
            work = MeasuredWork.from_arrays(arrays)
            origin = [str(text) for text in arrays["origin"]] if "origin" in arrays.files else []
            return DeviceMeasurements(genes_NG, latency_ms_N, held_out_N, error_N, as_written, work, *origin)
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
