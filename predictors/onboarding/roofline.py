"""A device that is known by two figures only: its peak computing rate and the bandwidth of its memory.

Every layer takes the longer of computing and moving, and nothing else takes time: a prior before any measurement, and
optimistic. Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore
architectures" (CACM 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from nas.core.arch import Arch, Floats
from nas.core.layers import Layer
from nas.core.ports import SearchSpace

BYTES = 4  # of a number in float32


def roofline_ms(
    space: SearchSpace, archs: Sequence[Arch], flops_per_s: float, bytes_per_s: float, bytes_each: int = BYTES
) -> Floats:
    """Milliseconds that N networks take at least, shape (N,): two operations for each multiplication, and every layer
    reads its input and its weights and writes its output."""
    return np.array(
        [1e3 * sum(_seconds(la, flops_per_s, bytes_per_s, bytes_each) for la in space.layers(a)) for a in archs]
    )


def _seconds(layer: Layer, flops_per_s: float, bytes_per_s: float, bytes_each: int) -> float:
    moved = bytes_each * (prod(layer.in_shape) + prod(layer.out_shape) + layer.params)
    return max(2.0 * layer.macs / flops_per_s, moved / bytes_per_s)
