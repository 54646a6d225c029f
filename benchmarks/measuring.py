"""How well measurements of latency repeat, and whether their intervals are honest, on this machine as it is.

Twelve networks of the digits space are measured six times each by the product's protocol and, in turns and for the same
time, by the one before it. ``--busy N`` keeps N programs busy meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from nas.core import registry
from nas.core.arch import Floats, as_archs, sample
from nas.core.spec import SearchSpec
from nas.export import to_onnx_for_timing
from predictors.measurement.isolated import measure_isolated, profile_machine

NETWORKS, REPEATS, POOL = 12, 6, 400
BUSY = """
import numpy as np
a, big = np.random.rand(300, 300), np.random.rand(8_000_000)
while True:
    for _ in range(20): a @ a
    for _ in range(3): big += 1.0
"""


def bench(options: Options) -> dict[str, Any]:
    """Repeats of both protocols in turns."""
    torch.set_num_threads(1)
    models = networks()
    with busy(options.more["busy"]), tempfile.TemporaryDirectory(prefix="hwnas-measuring-") as folder:
        for i, model in enumerate(models):
            (Path(folder) / f"{i:02d}.onnx").write_bytes(model)
        profile = profile_machine("this-machine")
        assert profile.noise is not None
        values, lows, highs, before, seconds = [], [], [], [], []
        refused = 0
        for _ in range(REPEATS):
            begun = time.monotonic()
            measured = list(measure_isolated(models, profile))
            seconds.append(time.monotonic() - begun)
            refused += sum(m.refused is not None for m in measured)
            values.append([m.median_ms if m.median_ms is not None else np.nan for m in measured])
            lows.append([m.low_ms if m.low_ms is not None else np.nan for m in measured])
            highs.append([m.high_ms if m.high_ms is not None else np.nan for m in measured])
            before.append(protocol_2(folder, seconds[-1]))
    new_RN, old_RN, low_RN, high_RN = map(np.array, (values, before, lows, highs))
    new_sd, old_sd = repeat_sd(new_RN), repeat_sd(old_RN)
    return {
        "repeat_sd": {"old": old_sd, "new": new_sd, "ratio": new_sd / old_sd},
        "interval_coverage": coverage(new_RN, low_RN, high_RN),
        "half_width": float(100 * np.nanmean((high_RN - low_RN) / (2 * new_RN))),
        "refused": refused,
        "seconds_per_network": float(np.mean(seconds)) / NETWORKS,
        "noise": {
            "floor": 100 * profile.noise.floor,
            "levels": list(profile.noise.levels),
            "undisturbed": profile.noise.undisturbed,
        },
        "busy": options.more["busy"],
        "load": os.getloadavg()[0],
        "range_ms": [float(np.nanmin(new_RN)), float(np.nanmax(new_RN))],
    }


def networks() -> list[bytes]:
    """Networks of the digits space, from small to large, as they are exported for timing."""
    spec = SearchSpec(name="measuring")
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    space = registry.build_space(spec.space, data.shape)
    net = space.supernet(0).eval()
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(1), POOL))
    order = np.argsort(space.costs(genes_NG)["macs"])
    chosen = genes_NG[order[np.linspace(0, POOL - 1, NETWORKS).astype(int)]]
    return [to_onnx_for_timing(net.subnet(a), space.input_shape(a)) for a in as_archs(space.id, chosen)]


def protocol_2(folder: str, seconds: float) -> list[float]:
    """The latencies by the protocol before, for so many seconds, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks._protocol_2", folder, f"{seconds:.1f}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, start_new_session=True)
    return [float(ms) for ms in json.loads(done.stdout)]


def repeat_sd(values_RN: Floats) -> float:
    """Relative standard deviation between repeats in %, the root mean square over networks."""
    relative_N = np.nanstd(values_RN, axis=0, ddof=1) / np.nanmean(values_RN, axis=0)
    return float(100 * np.sqrt(np.nanmean(relative_N**2)))


def coverage(values_RN: Floats, low_RN: Floats, high_RN: Floats) -> float:
    """The share of repeats whose interval holds the mean of the others."""
    others_RN = (np.nansum(values_RN, axis=0) - values_RN) / (np.isfinite(values_RN).sum(axis=0) - 1)
    told = np.isfinite(values_RN)
    return float(((low_RN <= others_RN) & (others_RN <= high_RN))[told].mean())


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keeps so many programs busy with computing and writing memory."""
    programs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--busy", type=int, default=0, help="programs that are kept busy meanwhile (%(default)s)")


if __name__ == "__main__":
    about = (__doc__ or "").split("\n\n")[0]
    main("measuring", bench, about, ("onnxruntime", "numpy", "torch"), seeds=1, more=_more)
