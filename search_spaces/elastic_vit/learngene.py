"""Blocks of a vision transformer of any depth from few learned ones, its learngenes.

- Linear expansion: TLEG (Xia et al., AAAI 2024), W_l = W_b + l / L W_a for each weight of block l of L, l from 0.
- Stages: SWS (Xia et al., IJCAI 2024), where consecutive blocks share their weights.

No torch here; ``blocks.py`` has the supernet's blocks. A block is its arrays by the ends of their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidSpec

Sharing = Literal["linear", "stages"]
BlockArrays: TypeAlias = Mapping[str, NDArray[Any]]
_DEVIATION = 1e-3  # of weights from a line, relative to their size, that rounding may explain


def expanded(blocks: Sequence[BlockArrays], depth: int, sharing: Sharing) -> list[BlockArrays]:
    """``depth`` blocks from those of a network that was trained with ``sharing``; arrays are copies.

    Raises InvalidSpec where the blocks do not share their weights so, or are too many for ``depth``.
    """
    if sharing == "linear":
        return _on_line(*line_through(blocks), depth)
    first_blocks = [blocks[i] for i in range(len(blocks)) if i == 0 or not _equal(blocks[i], blocks[i - 1])]
    return [{k: w.copy() for k, w in first_blocks[s].items()} for s in stage_sources(len(first_blocks), depth)]


def stage_sources(stages: int, depth: int) -> tuple[int, ...]:
    """The stage of each of ``depth`` blocks: in order, as evenly as it goes, the first stages longer (SWS). Raises
    InvalidSpec for fewer blocks than stages."""
    if depth < stages:
        raise InvalidSpec(f"depths: expected at least {stages}, a block for each stage of shared weights, got {depth}")
    length, longer = divmod(depth, stages)
    return tuple(s for s in range(stages) for _ in range(length + (s < longer)))


def line_through(blocks: Sequence[BlockArrays]) -> tuple[BlockArrays, BlockArrays]:
    """``W_b`` and ``W_a`` of blocks that were expanded from them (TLEG). Raises InvalidSpec for blocks that are on no
    line."""
    if len(blocks) < 2:
        raise InvalidSpec(f"start: expected a model of at least 2 blocks to expand, got {len(blocks)}")
    last = (len(blocks) - 1) / len(blocks)
    base = blocks[0]
    slope = {name: (blocks[-1][name] - weight) / last for name, weight in base.items()}
    on_line = _on_line(base, slope, len(blocks))
    for name in base:
        weights, expected = (np.stack([block[name] for block in stack]) for stack in (blocks, on_line))
        if np.abs(weights - expected).max() > _DEVIATION * np.abs(weights).max():
            raise InvalidSpec(
                f"start: expected a model whose blocks are linear in their depth, as networks of a space with "
                f"'sharing: linear' are; the weights {name!r} are not"
            )
    return base, slope


def _on_line(base: BlockArrays, slope: BlockArrays, depth: int) -> list[BlockArrays]:
    return [{name: base[name] + place / depth * slope[name] for name in base} for place in range(depth)]


def _equal(a: BlockArrays, b: BlockArrays) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)
