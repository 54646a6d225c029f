"""Depthwise convolution on small maps: matrix products against torch, forward and backward, one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks._cli import Options, main
from search_spaces.layers.depthwise import depthwise_by_matmul

BATCH = 128
CASES = ((96, 4, 3), (96, 4, 5), (192, 1, 5), (192, 2, 3), (192, 2, 5), (192, 3, 5), (128, 6, 5))


def bench(options: Options) -> dict[str, Any]:
    """One row per case (channels, map size, kernel): the median over repeats of convolution time over ours."""
    torch.set_num_threads(1)
    rows = []
    for channels, size, kernel in CASES:
        x = torch.randn(BATCH, channels, size, size, requires_grad=True)
        weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
        ratios = [
            seconds(lambda: F.conv2d(x, weight, padding=kernel // 2, groups=channels))  # noqa: B023 (called at once)
            / seconds(lambda: depthwise_by_matmul(x, weight, 1))  # noqa: B023
            for _ in options.seeds
        ]
        rows.append({"channels": channels, "map": size, "kernel": kernel, "speedup": statistics.median(ratios)})
    return {"rows": rows, "speedup": statistics.median(row["speedup"] for row in rows)}


def seconds(forward: Callable[[], torch.Tensor]) -> float:
    """Time of one pass forward and back."""
    start_s = time.perf_counter()
    forward().sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main("depthwise", bench, __doc__.split("\n")[0], ("torch",), seeds=15)
