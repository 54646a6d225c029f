"""Predictors and what they are fitted to as bytes: plain arrays in npz, never pickled."""

from __future__ import annotations

import io
from zipfile import BadZipFile

import numpy as np

from nas.core import registry
from nas.core.arch import Floats, Genes
from nas.core.errors import StorageError
from nas.core.ports import LatencyPredictor


def dump_predictor(predictor: LatencyPredictor) -> bytes:
    """The predictor's arrays; its family is kept beside them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **predictor.to_arrays())
    return buffer.getvalue()


def dump_measured(genes_NG: Genes, latency_ms_N: Floats) -> bytes:
    """What is known of a device: networks and their latencies, from which other devices can be learned."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, genes=genes_NG, latency_ms=latency_ms_N)
    return buffer.getvalue()


def load_measured(data: bytes) -> tuple[Genes, Floats]:
    """Inverse of ``dump_measured``. Raises StorageError for damage."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays["genes"], arrays["latency_ms"]
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise StorageError(f"stored measurements cannot be read: {error}") from error


def load_predictor(family: str, data: bytes) -> LatencyPredictor:
    """Inverse of ``dump_predictor``. Raises UnknownName for a family that is not installed, StorageError for damage."""
    kind = registry.load("nas.predictors", family)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            predictor: LatencyPredictor = kind.from_arrays({k: arrays[k] for k in arrays.files})
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise StorageError(f"the stored {family} predictor cannot be read: {error}") from error
    return predictor
