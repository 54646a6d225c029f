"""Random streams: everything random derives from a seed, a named stream and a position. No torch."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purposes of random draws. A value is never reused: resumed searches draw by it."""

    BATCH_ORDER = 1  # phase, epoch
    TRAINING_STEP = 2  # phase or epoch, step
    AUXILIARY_WEIGHTS = 3
    CALIBRATION_IMAGES = 4
    EXPLORATION = 5  # round, networks
    REFINEMENT = 6  # round
    PROXY_IMAGES = 7
    RETRAINING = 8  # trial
    DISCRETISATION = 9  # run
    RANDOM_SPLIT = 10
    GRADIENT_MATCHING = 11  # decision
    MATCHING_BATCH = 12  # repeat
    SUB_SUPERNET = 13  # subspace
    UNDIVIDED_SUPERNET = 14
    SUPERNET_ENSEMBLE = 15
    ENSEMBLE_STEP = 16  # step
    ARCHITECTURE_PARAMETERS = 17
    GRADIENT_STEP = 18  # epoch, step
    GRADIENT_BATCH_ORDER = 19  # half, epoch
    IMAGE_HALVES = 20
    SELECTION_ORDER = 21
    LATENCY_REFERENCE = 22
    OPERATION_COSTS = 23
    FEATURE_PROJECTION = 24
    IMAGE_CROPS = 25  # phase, epoch, step
    ADAPTATION = 26
    ADAPTATION_IMAGES = 27
    PRECISION_BASELINE = 28
    MEASURED_NETWORKS = 29
    HELD_OUT_NETWORKS = 30
    OPERATOR_TRIAL = 31
    GRAPH_PREDICTOR = 32  # member
    IMAGE_BOX = 33  # image


def rng(seed: int, stream: Stream, *position: int) -> np.random.Generator:
    """The generator of a position in a stream, independent of all other streams and positions.

    Raises ValueError unless positions are non-negative and below 2**32: larger ones would collide with longer
    positions.
    """
    if not all(0 <= p < 2**32 for p in position):
        raise ValueError(f"expected positions from 0 to 2**32 - 1, got {position}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), *position)))


def derive_seed(seed: int, stream: Stream, *position: int) -> int:
    """A seed below 2**62 for a position in a stream, for torch generators or nested components."""
    return int(rng(seed, stream, *position).integers(2**62))


def earlier_rng(seed: int, *numbers: int) -> np.random.Generator:
    """The generator of versions without named streams, for checkpoints that depend on its draws."""
    return np.random.default_rng((seed, *numbers))
