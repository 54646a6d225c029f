"""Predictors and what they are fitted to as bytes: plain arrays in npz, never pickled."""

from __future__ import annotations

import io
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.errors import StorageError
from nas.core.ports import LatencyPredictor
from predictors.base import load_family


def dump_predictor(predictor: LatencyPredictor) -> bytes:
    """The predictor's arrays; its family is kept beside them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **predictor.to_arrays())
    return buffer.getvalue()


@dataclass(frozen=True)
class Known:
    """The measurements of a device: N networks and their latencies. Those ``held_out_N`` check predictors; none is
    fitted to them. ``error_N`` are the relative standard errors of the latencies, None where they are not known."""

    genes_NG: Genes
    latency_ms_N: Floats
    held_out_N: NDArray[np.bool_]
    error_N: Floats | None = None


def dump_measured(
    genes_NG: Genes,
    latency_ms_N: Floats,
    held_out_N: NDArray[np.bool_] | None = None,
    error_N: Floats | None = None,
) -> bytes:
    """What is known of a device, from which it, or others, can be learned."""
    buffer = io.BytesIO()
    held_out = {"held_out": held_out_N} if held_out_N is not None else {}
    errors = {"error": error_N} if error_N is not None else {}
    np.savez(buffer, allow_pickle=False, genes=genes_NG, latency_ms=latency_ms_N, **held_out, **errors)
    return buffer.getvalue()


def load_measured(data: bytes) -> tuple[Genes, Floats]:
    """Networks and their latencies. Raises StorageError for damage."""
    known = load_known(data)
    return known.genes_NG, known.latency_ms_N


def load_known(data: bytes) -> Known:
    """Inverse of ``dump_measured``; where it was not kept which networks were held out, none is. Raises StorageError
    for damage."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            genes_NG, latency_ms_N = arrays["genes"], arrays["latency_ms"]
            held_out_N = arrays["held_out"] if "held_out" in arrays.files else np.zeros(len(genes_NG), dtype=bool)
            error_N = arrays["error"] if "error" in arrays.files else None
            return Known(genes_NG, latency_ms_N, held_out_N, error_N)
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise StorageError(f"stored measurements cannot be read: {error}") from error


def load_predictor(family: str, data: bytes) -> LatencyPredictor:
    """Inverse of ``dump_predictor``. Raises UnknownName for a family that is not installed, StorageError for damage."""
    registered = load_family(family)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return registered.from_arrays({k: arrays[k] for k in arrays.files})
    except (ValueError, KeyError, OSError, BadZipFile) as error:
        raise StorageError(f"the stored {family} predictor cannot be read: {error}") from error
