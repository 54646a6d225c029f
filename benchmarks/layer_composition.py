"""Latency composed of single layers against latency learned from whole networks, on this machine.

Every layer that a network of the mobilenet_v3 digits space can have is cut out as a model of its own and timed by the
product's protocol; so are 40 networks to correct the sums with, or to learn from, and 40 others to judge on. All in one
sitting, each network once; the machine should be left alone meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from nas.core import registry
from nas.core.arch import Arch, Floats, as_archs, sample
from nas.core.device import DeviceProfile, Measurement
from nas.core.metrics import coverage, mape, spearman
from nas.core.ports import predict_latency
from nas.core.spec import SearchSpec
from nas.export import to_onnx_for_timing
from nas.spaces.layer_onnx import empty_to_onnx, layer_to_onnx
from predictors.families.layer_lut import every_layer, table_of, to_measure
from predictors.measurement.isolated import measure_isolated, profile_machine
from predictors.onboarding.fitting import fit_networks
from predictors.onboarding.selection import stratified

SAMPLES, TEST_NETWORKS = 40, 40
AGAIN = 3  # times that what was too unsteady is tried once more
FAMILIES = ("bayesian_linear", "mlp", "graph", "gradient_boosting", "auto")
SPEC = SearchSpec()


def bench(options: Options) -> dict[str, Any]:
    """Layers first, then whole networks, then the error of each way of predicting the others."""
    torch.set_num_threads(1)
    data = registry.load_dataset(SPEC.data.name).load(SPEC.data, SPEC.data.seed)
    space = registry.build_space(SPEC.space, data.shape)
    net = space.supernet(0).eval()

    def export(arch: Arch) -> bytes:
        return to_onnx_for_timing(net.subnet(arch), space.input_shape(arch))

    profile = profile_machine("this-machine")
    layers = every_layer(space)
    models = [empty_to_onnx() if layer is None else layer_to_onnx(layer) for layer in to_measure(layers)]
    layers_ms, layers_s, refused = timed(models, profile)
    table = table_of(layers, layers_ms.tolist())

    known_NG, _ = stratified(space, SAMPLES, 0)
    others_NG = space.canonical(sample(space.decisions, np.random.default_rng(1234), TEST_NETWORKS))
    genes_NG = np.concatenate([known_NG, others_NG])
    networks_ms, networks_s, refused_networks = timed([export(a) for a in as_archs(space.id, genes_NG)], profile)
    known_ms, true_ms = networks_ms[:SAMPLES], networks_ms[SAMPLES:]

    def errors_of(fit: Callable[[], tuple[Floats, Floats | None]]) -> dict[str, float]:
        start_s = time.process_time()
        mean_ms, upper_ms = fit()
        bound = {} if upper_ms is None else {"coverage": coverage(true_ms, upper_ms)}
        return {
            "mape": mape(true_ms, mean_ms),
            "spearman": spearman(true_ms, mean_ms),
            **bound,
            "fit_s": time.process_time() - start_s,
        }

    def fitted(family: Any) -> tuple[Floats, Floats | None]:
        latency = predict_latency(fit_networks(family, space, known_NG, known_ms), space, others_NG)
        return latency.mean_ms, latency.upper_ms

    return {
        "space": space.id,
        "layers": {"measured": len(models), "seconds": layers_s, "refused_at_first": refused},
        "networks": {"measured": len(genes_NG), "seconds": networks_s, "refused_at_first": refused_networks},
        "empty_ms": table.empty_ms,
        "range_ms": [float(true_ms.min()), float(true_ms.max())],
        "sum_over_measured": float(np.median(table.sum_ms(space, others_NG) / true_ms)),
        "layers_summed": errors_of(lambda: (table.sum_ms(space, others_NG), None)),
        "layers_corrected": errors_of(lambda: fitted(table)),
        "whole_networks": {family: errors_of(lambda f=family: fitted(f)) for family in FAMILIES},  # type: ignore[misc]
        "setting": {
            "corrected_with": SAMPLES,
            "judged_on": TEST_NETWORKS,
            "protocol": profile.protocol.version,
            "threads": 1,
        },
    }


def timed(models: Sequence[bytes], profile: DeviceProfile) -> tuple[Floats, float, int]:
    """Median ms of each model, seconds that took in all, and how many had to be tried again."""
    start_s = time.monotonic()
    measured: list[Measurement] = list(measure_isolated(models, profile))
    refused = [i for i, m in enumerate(measured) if m.refused is not None]
    first = len(refused)
    for _ in range(AGAIN):
        for i, m in zip(refused, list(measure_isolated([models[i] for i in refused], profile)), strict=True):
            measured[i] = m
        refused = [i for i in refused if measured[i].refused is not None]
    if refused:
        raise SystemExit(f"the machine is too unsteady: {measured[refused[0]].refused}")
    return np.array([m.median_ms for m in measured], dtype=np.float64), time.monotonic() - start_s, first


if __name__ == "__main__":
    main("layer_composition", bench, (__doc__ or "").split("\n\n")[0], ("torch", "onnxruntime", "numpy"), seeds=1)
