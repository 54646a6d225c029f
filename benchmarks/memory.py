"""Counted memory beside measured memory: how much a process grows when a runtime loads and runs a network, against the
activations and weights that are counted of it; and against what onnxruntime says that its arena took.

The arena holds what grows with the batch, and neither the runtime itself nor its copies of the weights. So both are
compared by how much more they are for a larger batch. By default it grows to powers of two, of which pages that nothing
is written to take no memory; for the comparison it takes what is asked of it. Nothing is timed, so other work on the
machine does no harm.
Runtimes that are not installed are listed with the reason.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from pydantic import JsonValue
from scipy.stats import spearmanr

from benchmarks._cli import Options, main
from nas.core import registry
from nas.core.arch import Arch, as_archs, sample
from nas.core.errors import HwnasError
from nas.core.ports import ImageShape, SearchSpace
from nas.core.runtimes import Execution, Precision, Runtime, RuntimeTarget, load_runtime
from nas.core.spec import SpaceSpec
from nas.export import converted_for_timing, to_onnx_for_timing
from predictors.measurement.inspection import inspect_in_fork

RUNTIMES = ("onnxruntime", "openvino", "litert")
CASES: tuple[tuple[Precision, int], ...] = (("float32", 1), ("float32", 8), ("int8", 1))
SPACES: Mapping[str, tuple[dict[str, JsonValue], ImageShape]] = {
    "digits": ({"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    "cifar": ({"preset": "cifar"}, ImageShape(3, 32, 32, 10)),
    "imagenet": ({"preset": "imagenet", "resolutions": [128, 160, 192, 224]}, ImageShape(3, 224, 224, 1000)),
}
BATCHES = {"cifar": (8, 128), "imagenet": (16, 64)}  # of which the difference is compared with the arena's
RUNS = 3  # processes whose median counts: where memory lies differs between them
MB = 1e6


def bench(options: Options) -> dict[str, Any]:
    """Every space with its networks on every runtime."""
    networks = options.more["networks"]
    spaces = {name: of_space(name, networks) for name in options.more["spaces"]}
    reported = {name: against_report(name, networks) for name in options.more["spaces"] if name in BATCHES}
    ratios = [ratio for figures in reported.values() for ratio in figures["ratio"]]
    largest = max((abs(ratio - 1) for ratio in ratios), default=None)
    return {"networks": networks, "spaces": spaces, "reported": reported, "largest_difference": largest}


def of_space(name: str, networks: int) -> dict[str, Any]:
    """Networks of a space: counted once, and measured on each runtime in each case."""
    params, shape = SPACES[name]
    space = registry.build_space(SpaceSpec(name="mobilenet_v3", params=params), shape)
    archs = spread(space, networks)
    net = space.supernet(0).eval()
    models = [to_onnx_for_timing(net.subnet(arch), space.input_shape(arch)) for arch in archs]
    costs = space.costs(np.array([arch.genes for arch in archs]))
    activations_MB, weights_MB = costs["peak_bytes"] / MB, costs["model_bytes"] / MB
    measured: dict[str, Any] = {}
    for runtime in RUNTIMES:
        for precision, batch in CASES:
            case = f"{runtime} {precision} batch {batch}"
            try:
                in_precision = [
                    converted_for_timing(model, precision, space.input_shape(arch))
                    for model, arch in zip(models, archs, strict=True)
                ]
                peaks_MB = [peak_MB(runtime, model, batch) for model in in_precision]
            except HwnasError as error:
                measured[case] = {"absent": str(error)}
                continue
            counted_MB = batch * activations_MB + weights_MB / (4 if precision == "int8" else 1)
            measured[case] = figures(peaks_MB, counted_MB)
    return {"activations_MB": activations_MB.tolist(), "weights_MB": weights_MB.tolist(), "measured": measured}


def against_report(name: str, networks: int) -> dict[str, Any]:
    """By how much more a process grows for the larger of two batches than for the smaller, beside how much more
    onnxruntime's arena and the images take."""
    params, shape = SPACES[name]
    space = registry.build_space(SpaceSpec(name="mobilenet_v3", params=params), shape)
    net, (small, large) = space.supernet(0).eval(), BATCHES[name]
    measured_MB, reported_MB = [], []
    for arch in spread(space, networks):
        size = space.input_shape(arch)
        model = to_onnx_for_timing(net.subnet(arch), size)
        (grown_small, arena_small), (grown_large, arena_large) = (grown_and_arena_MB(model, b) for b in (small, large))
        measured_MB.append(grown_large - grown_small)
        reported_MB.append(arena_large - arena_small + (large - small) * 4 * prod(size) / MB)
    ratio = [measured / reported for measured, reported in zip(measured_MB, reported_MB, strict=True)]
    return {"batches": [small, large], "measured_MB": measured_MB, "reported_MB": reported_MB, "ratio": ratio}


def grown_and_arena_MB(model: bytes, batch: int) -> tuple[float, float]:
    """By how much a process grows, as the product measures it, and what onnxruntime's log says that its arena has
    allocated; medians over ``RUNS`` processes."""
    command = [sys.executable, "-m", "benchmarks._arena_child", str(batch)]
    rows = []
    for _ in range(RUNS):
        done = subprocess.run(command, input=model, capture_output=True, check=True)
        allocated = [int(size) for size in re.findall(rb"Total allocated bytes: (\d+)", done.stderr)]
        if not allocated:
            raise RuntimeError("expected the size of the arena in onnxruntime's log, got none")
        rows.append((int(done.stdout) / MB, max(allocated) / MB))
    grown_MB, arena_MB = np.median(rows, axis=0).tolist()
    return grown_MB, arena_MB


def spread(space: SearchSpace, count: int) -> list[Arch]:
    """Networks evenly along the counted memory of random ones, both ends included."""
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 256))
    costs = space.costs(genes_NG)
    order = np.argsort(costs["peak_bytes"] + costs["model_bytes"])
    return as_archs(space.id, genes_NG[order[np.linspace(0, len(order) - 1, count).round().astype(int)]])


def peak_MB(name: str, model: bytes, batch: int) -> float:
    """By how much a process grows. Raises HwnasError where the runtime is missing or cannot run the model."""
    runtime = load_runtime(name)
    assert isinstance(runtime, Runtime)
    execution = Execution(runtime.identify(RuntimeTarget(name)).target, batch=batch)
    peak_bytes = inspect_in_fork(runtime, model, execution).peak_bytes
    return float("nan") if peak_bytes is None else peak_bytes / MB


def figures(measured_MB: Sequence[float], counted_MB: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The least and the largest network, the median ratio, and how well counting ranks networks."""
    measured_N = np.array(measured_MB)
    varies = np.ptp(measured_N) > 0 and np.ptp(counted_MB) > 0
    smallest, largest = int(counted_MB.argmin()), int(counted_MB.argmax())
    return {
        "counted_MB": [float(counted_MB[smallest]), float(counted_MB[largest])],
        "measured_MB": [float(measured_N[smallest]), float(measured_N[largest])],
        "measured_over_counted": float(np.median(measured_N / counted_MB)),
        "spearman": float(spearmanr(measured_N, counted_MB).statistic) if varies else None,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    parser.add_argument("--networks", type=int, default=8, help="networks of each space (%(default)s)")
    parser.add_argument("--spaces", nargs="+", choices=[*SPACES], default=[*SPACES], help="spaces (all)")


if __name__ == "__main__":
    about = (__doc__ or "").split("\n\n")[0]
    main("memory", bench, about, ("onnxruntime", "numpy"), seeds=1, more=add_arguments)
