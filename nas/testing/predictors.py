"""What every predictor family that fits from features must fulfil."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Floats
from nas.core.errors import HwnasError
from nas.core.metrics import mape
from nas.testing.errors import assert_raises


def check_predictor(family: str, features_NF: Floats, latency_ms_N: Floats) -> None:
    """Check accuracy, the upper bound, storage, determinism and errors of a family.

    Args:
        family: Name under which the family is registered.
        features_NF: Features of at least 200 architectures; the first 100 are fitted, the others are predicted.
        latency_ms_N: Their latencies in milliseconds, which the family must be able to learn.
    """
    kind = registry.load_family(family)
    fitted = kind.fit(features_NF[:100], latency_ms_N[:100])
    assert fitted.family == family
    predicted, truth = fitted.predict(features_NF[100:]), latency_ms_N[100:]
    median = np.full(len(truth), np.median(latency_ms_N[:100]))
    assert mape(truth, predicted.mean_ms) < 0.5 * mape(truth, median)
    assert (predicted.mean_ms > 0).all()
    assert (predicted.upper_ms >= predicted.mean_ms).all()
    assert (truth <= predicted.upper_ms).mean() >= 0.88  # a 95 % bound, calibrated on 100 networks
    expected = fitted.predict(features_NF)
    for other in (kind.from_arrays(_through_npz(fitted.to_arrays())), kind.fit(features_NF[:100], latency_ms_N[:100])):
        latency = other.predict(features_NF)
        assert latency.mean_ms.tolist() == expected.mean_ms.tolist()
        assert latency.upper_ms.tolist() == expected.upper_ms.tolist()
    assert_raises(HwnasError, lambda: kind.fit(features_NF[:3], latency_ms_N[:3]))
    assert_raises(HwnasError, lambda: kind.fit(features_NF[:30], -latency_ms_N[:30]))


def _through_npz(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}
