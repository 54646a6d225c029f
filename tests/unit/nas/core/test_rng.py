"""Random streams do not collide."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nas.core.rng import Stream, derive_seed, rng


def test_equal_positions_give_equal_draws() -> None:
    first, second = (rng(3, Stream.TRAINING_STEP, 1, 2).integers(2**62, size=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_seeds_streams_and_positions_never_share_draws() -> None:
    """Tuples as numpy seeds do: ``(0, 11)`` and ``(0, 11, 0)`` are equal there."""
    assert np.random.default_rng((0, 11)).integers(2**62) == np.random.default_rng((0, 11, 0)).integers(2**62)
    positions: list[tuple[int, ...]] = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2**32 - 1,)]
    seeds = (0, 1, 2**32, 2**62, 2**63 - 1)
    draws = [derive_seed(*(seed, stream, *p)) for seed, stream, p in product(seeds, Stream, positions)]
    assert len(set(draws)) == len(draws)


def test_stream_values_are_distinct() -> None:
    assert len(Stream.__members__) == len(set(Stream))


@pytest.mark.parametrize("position", [-1, 2**32])
def test_ambiguous_positions_are_refused(position: int) -> None:
    with pytest.raises(ValueError, match="expected positions"):
        rng(0, Stream.TRAINING_STEP, position)
