"""Spaces that people deploy, on this machine: how good a predictor is on each, and how far MACs tell latency.

Of each space, at 32 pixels, networks are measured by the product's own protocol as a device is added, and others to
judge its predictor by. ``--figure`` draws the measured latency of the others over their MACs. The machine should be
left alone meanwhile. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks._cli import ROOT, Options, commit, machine, main
from benchmarks._device import add_device, predictor_figures, timing_export
from benchmarks._finished_runs import FinishedRuns
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import as_archs, sample
from nas.core.ports import ImageShape
from nas.core.spec import DeviceSpec, SpaceSpec
from predictors.measurement.isolated import measure_isolated

SPACES = ("mobilenet_v3", "fbnet", "hybrid", "elastic_vit", "attentive_nas")
SHAPE = ImageShape(3, 32, 32, 10)
PARTIAL = ROOT / "benchmarks" / "results" / "spaces.partial.json"


def bench(options: Options) -> Mapping[str, Any]:
    """Figures by space, the rank correlation of MACs with latency in each, and over all networks together."""
    torch.set_num_threads(1)
    setting = {key: options.more[key] for key in ("preset", "samples", "others")}
    runs = FinishedRuns(options.more["partial"], {**setting, "commit": commit(), "machine": machine()})
    spaces = {
        name: runs.run(name, partial(measured_space, name, options.more), "added after {onboarding_s:.0f} s".format_map)
        for name in options.more["spaces"]
    }
    everything = np.concatenate([np.array(s["networks"]) for s in spaces.values()])
    if options.more["figure"] is not None:
        draw(spaces, options.more["figure"])
    return {
        "samples": options.more["samples"],
        "others": options.more["others"],
        "spaces": spaces,
        "macs_spearman": float(spearmanr(everything[:, 0], everything[:, 1]).statistic),
    }


def measured_space(name: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """The predictor's errors, and [MACs, measured ms] of each network that it was not fitted to."""
    space_spec = SpaceSpec(name=name, params={"preset": more["preset"]})
    space = registry.build_space(space_spec, SHAPE)
    export = timing_export(space)
    with tempfile.TemporaryDirectory(prefix="hwnas-spaces-") as folder:
        spec = DeviceSpec(samples=more["samples"], space=space_spec)
        device = add_device(spec, space, FolderBlobs(Path(folder)), export)
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(1234), more["others"]))
    archs = as_archs(space.id, genes_NG)
    measured = list(measure_isolated([export(arch) for arch in archs], device.profile))
    networks = [
        [float(macs), m.median_ms]
        for macs, m in zip(space.costs(genes_NG)["macs"], measured, strict=True)
        if m.median_ms is not None
    ]
    macs_N, true_ms = np.array(networks).T
    return {
        "family": device.fitted.family,
        "onboarding_s": device.seconds,
        "noise_floor": device.profile.noise.floor if device.profile.noise is not None else None,
        **predictor_figures(device.predictor, space, archs, measured),
        "macs_spearman": float(spearmanr(macs_N, true_ms).statistic),
        "networks": networks,
    }


def draw(spaces: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Measured latency over MACs, both logarithmic, as a picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (name, figures), marker in zip(spaces.items(), "osD^v", strict=False):
        macs_N, measured_ms = np.array(figures["networks"]).T
        ax.scatter(
            macs_N / 1e6,
            measured_ms,
            s=22,
            marker=marker,
            alpha=0.75,
            label=f"{name}, rank correlation {figures['macs_spearman']:.2f}",
        )
    ax.set(xscale="log", yscale="log", xlabel="MACs (million)", ylabel="Measured latency (ms)")
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which spaces, at which size, and where the figure goes."""
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES), help="which ones (all)")
    parser.add_argument("--preset", default="cifar", help="of every space (%(default)s)")
    parser.add_argument("--samples", type=int, default=32, help="networks that a predictor is fitted to (%(default)s)")
    parser.add_argument("--others", type=int, default=20, help="networks that it is judged by (%(default)s)")
    parser.add_argument("--partial", type=Path, default=PARTIAL, help="finished spaces, to go on from (%(default)s)")
    parser.add_argument("--figure", type=Path, help="file of a picture of latency over MACs")


if __name__ == "__main__":
    main("spaces", bench, (__doc__ or "").split("\n\n")[0], ("torch", "onnxruntime", "numpy"), 1, add_arguments)
