"""Predictors as bytes: plain arrays in npz, never pickled."""

from __future__ import annotations

import io

import numpy as np

from nas.core import registry
from nas.core.errors import StorageError
from nas.core.ports import LatencyPredictor


def dump_predictor(predictor: LatencyPredictor) -> bytes:
    """The predictor's arrays; its family is kept beside them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **predictor.to_arrays())
    return buffer.getvalue()


def load_predictor(family: str, data: bytes) -> LatencyPredictor:
    """Inverse of ``dump_predictor``. Raises UnknownName for a family that is not installed, StorageError for damage."""
    kind = registry.load("nas.predictors", family)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            predictor: LatencyPredictor = kind.from_arrays({k: arrays[k] for k in arrays.files})
    except (ValueError, KeyError, OSError) as error:
        raise StorageError(f"the stored {family} predictor cannot be read: {error}") from error
    return predictor
