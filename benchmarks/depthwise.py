"""Depthwise convolution on small maps: matrix products against torch's convolution, forward and backward, one thread.

python -m benchmarks.depthwise --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from search_spaces.layers.elastic import depthwise_by_matmul

CASES = ((96, 4, 3), (96, 4, 5), (192, 1, 5), (192, 2, 3), (192, 2, 5), (192, 3, 5), (128, 6, 5), (64, 12, 5))


def main() -> None:
    """Prints one row per case: channels, map size, kernel, and how many times faster the matrix products are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--shared", help="not needed by this benchmark")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for channels, size, kernel in CASES:
        x = torch.randn(128, channels, size, size, requires_grad=True)
        weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
        gradient = torch.randn(128, channels, size, size)

        def convolution(
            x: torch.Tensor = x,
            w: torch.Tensor = weight,
            g: torch.Tensor = gradient,
            c: int = channels,
            k: int = kernel,
        ) -> None:
            F.conv2d(x, w, padding=k // 2, groups=c).backward(g)  # type: ignore[no-untyped-call]

        def matmul(x: torch.Tensor = x, w: torch.Tensor = weight, g: torch.Tensor = gradient) -> None:
            depthwise_by_matmul(x, w, 1).backward(g)  # type: ignore[no-untyped-call]

        ratios = [seconds(convolution) / seconds(matmul) for _ in range(arguments.repeats)]
        rows.append(
            {"channels": channels, "map": size, "kernel": kernel, "speedup": round(statistics.median(ratios), 2)}
        )
    if arguments.json:
        sys.stdout.write(json.dumps({"rows": rows}) + "\n")
    else:
        for row in rows:
            print(row)


def seconds(run: Callable[[], None]) -> float:
    """Time of one call."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
