"""Everything that needs a GPU, in at most 8 minutes on one: steps of a supernet in float32, bfloat16 and compiled
against the published step written out plainly, a step of differentiable search against the paper's formulation, and
one-shot training on the cells of NAS-Bench-201 with 16 channels. Without a GPU it says so and runs nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from benchmarks._plain_ofa import PlainOnceForAll
from benchmarks.darts_step import StepBench
from nas.core.ports import Dataset, ImageShape, SearchSpace, Split
from nas.peak_memory import peak_memory_bytes, reset_peak_memory
from nas.training import samplers
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, Training
from nas.training.schedules import Phase, uniform
from nas.training.trainer import TrainingExecution, use_fast_kernels
from search_spaces.mobilenet_v3 import space as mobilenet_v3
from search_spaces.mobilenet_v3.network import MobileNetV3Supernet
from search_spaces.nas_bench_201 import space as nas_bench_201

SECONDS = 480.0  # in all
SUBNETS = 4


@dataclass(frozen=True)
class GpuSizes:
    """Images of a step and their pixels, and presets, of the supernet; the batch of differentiable search; images,
    pixels and channels of NAS-Bench-201; ``patience_s``: how long each is timed."""

    preset: str
    pixels: int
    batch: int
    darts_batch: int
    cell_images: int
    cell_batch: int
    channels: int
    cells: int
    patience_s: float


FULL = GpuSizes("imagenet", 224, 128, 64, 10_240, 256, 16, 5, 20.0)
TINY = GpuSizes("digits", 8, 8, 2, 32, 16, 4, 1, 0.0)  # for a test on a CPU


def bench(options: Options) -> dict[str, Any]:
    """Ends the program where there is no GPU."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU: expected a CUDA device, found none that torch can use; nothing was run")
    return measure("cuda:0", FULL, torch.cuda.get_device_name(0))


def measure(device: str, size: GpuSizes, name: str, compiled: bool = True) -> dict[str, Any]:
    """All figures on a device, the most important first; what the time does not suffice for is left out and listed."""
    use_fast_kernels(device)
    begun_s, figures, left_out = time.monotonic(), dict[str, Any](), list[str]()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "plain": lambda: supernet_rate(device, size, None),
        "float32": lambda: supernet_rate(device, size, TrainingExecution()),
        "bfloat16": lambda: supernet_rate(device, size, TrainingExecution("bfloat16")),
        "nas_bench_201": lambda: one_shot(device, size),
        "darts_step": lambda: darts_step(device, size),
    }
    if compiled:
        parts["compiled"] = lambda: supernet_rate(device, size, TrainingExecution("bfloat16", compiled=True))
    for part, run in parts.items():
        if time.monotonic() - begun_s > 0.75 * SECONDS:
            left_out.append(part)
            continue
        figures[part] = run()
        print(f"{part}: {figures[part]}", file=sys.stderr)
    plain = figures["plain"]["images_per_s"]
    rates = {k: figures[k]["images_per_s"] for k in ("float32", "bfloat16", "compiled") if k in figures}
    return {
        "gpu": name,
        "supernet": {k: v for k, v in figures.items() if k in ("plain", *rates)},
        "ratio": {k: rate / plain for k, rate in rates.items()},
        "darts_step": figures.get("darts_step"),
        "nas_bench_201": figures.get("nas_bench_201"),
        "left_out": left_out,
        "seconds": time.monotonic() - begun_s,
    }


def supernet_rate(device: str, size: GpuSizes, execution: TrainingExecution | None) -> dict[str, Any]:
    """Images a second (of the data set, whatever the number of networks) of steps with four networks and a teacher, by
    our training, loading included, or, with None, by the published step on a batch that lies on the device."""
    shape = ImageShape(3, size.pixels, size.pixels, 10)
    space: SearchSpace = mobilenet_v3.build({"preset": size.preset, "resolutions": [size.pixels]}, shape)
    net = space.supernet(0).to(device)
    assert isinstance(net, MobileNetV3Supernet)
    data = noise(shape, 4 * size.batch)
    elastic = {d.axis: 10**6 for d in space.decisions}
    reset_peak_memory(device)
    if execution is None:
        plain = PlainOnceForAll(net, samplers.largest(space), lr=0.01, taught=True)
        x, y = Pipeline(data, device).augmented(data.train, np.arange(size.batch), size.pixels, 0)
        archs = samplers.sample_elastic(space, elastic, np.random.default_rng(0), SUBNETS)
        step_s, first_s = seconds_of(device, lambda i: plain.step(x, y, archs), size.patience_s)
    else:
        phase = Phase("four", 1, 0.01, SUBNETS, elastic, "frozen")
        recipe = SupernetRecipe((phase,), batch_size=size.batch, execution=execution)
        training = Training(net, space, data, Pipeline(data, device), recipe, 0)
        training.begin(0)
        step_s, first_s = seconds_of(device, lambda i: training.step(0, i % training.lengths[0]), size.patience_s)
    return {
        "images_per_s": size.batch / step_s,
        "step_ms": 1e3 * step_s,
        "first_steps_s": first_s,
        "memory_mb": peak_memory_bytes(device) / 2**20,
    }


def darts_step(device: str, size: GpuSizes) -> dict[str, Any]:
    """Seconds of a step of differentiable search, plain and ours."""
    step_s = {}
    for name, ours in (("plain", False), ("ours", True)):
        bench_ = StepBench(ours, size.darts_batch, device)
        step_s[name], _ = seconds_of(device, lambda i, b=bench_: b.step(), size.patience_s)  # type: ignore[misc]
    return {"step_s": step_s, "speedup": step_s["plain"] / step_s["ours"], "batch": size.darts_batch}


def one_shot(device: str, size: GpuSizes) -> dict[str, Any]:
    """Images a second of one-shot training of all cells of NAS-Bench-201, one random cell a step."""
    shape = ImageShape(3, 32, 32, 10) if size is not TINY else ImageShape(3, 8, 8, 10)
    space = nas_bench_201.build({"channels": size.channels, "cells": size.cells}, shape)
    data = noise(shape, size.cell_images)
    recipe = SupernetRecipe(uniform(1, 0.05, {"operation"}, 1), batch_size=size.cell_batch)
    training = Training(space.supernet(0).to(device), space, data, Pipeline(data, device), recipe, 0)
    training.begin(0)
    step_s, _ = seconds_of(device, lambda i: training.step(0, i % training.lengths[0]), size.patience_s)
    rate = size.cell_batch / step_s
    return {"images_per_s": rate, "epoch_of_cifar10_s": 50_000 / rate, "channels": size.channels}


def seconds_of(device: str, step: Callable[[int], object], patience_s: float, warm_up: int = 3) -> tuple[float, float]:
    """The median step in seconds, by the wall clock with the device waited for, in ``patience_s`` and at least three
    steps; and what the first steps took, in which kernels are chosen and compiled."""
    begun_s = time.perf_counter()
    for i in range(warm_up):
        step(i)
    _wait(device)
    first_s = time.perf_counter() - begun_s
    times: list[float] = []
    while len(times) < 3 or (sum(times) < patience_s and len(times) < 500):
        begun_s = time.perf_counter()
        step(warm_up + len(times))
        _wait(device)
        times.append(time.perf_counter() - begun_s)
    return median(times), first_s


def noise(shape: ImageShape, count: int) -> Dataset:
    """A data set of noise."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(count, shape.channels, shape.height, shape.width), dtype=np.uint8)
    split = Split(images, generator.integers(shape.classes, size=count))
    return Dataset("noise", shape, split, split, split, tuple(map(str, range(shape.classes))), "")


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    about = (__doc__ or "").split(":")[0]
    main("gpu", bench, about, ("torch", "numpy"), seeds=1)
