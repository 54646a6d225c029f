"""What benchmarks say of a device's predictor, and the picture of latency over MACs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks._device import predictor_figures
from benchmarks.small_budget import PlantedLatency
from benchmarks.spaces import SHAPE, draw
from nas.core import registry
from nas.core.arch import as_archs, sample
from nas.core.device import Measurement
from nas.core.spec import SpaceSpec


def test_refused_measurements_are_left_out_of_the_figures() -> None:
    space = registry.build_space(SpaceSpec(name="fbnet", params={"preset": "cifar"}), SHAPE)
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 5))
    planted = PlantedLatency.of(space)
    predicted_ms = planted.predict(space.features(genes_NG)).mean_ms
    slower = np.array([1.25, 1.0, 0.8, 1.0, 1.0])  # than predicted
    measured = [Measurement("p", "d", float(ms), 0.9, 1.1, 10, 0.01, 1.0) for ms in slower * predicted_ms]
    measured[4] = replace(measured[4], median_ms=None, refused="throttled")
    figures = predictor_figures(planted, space, as_archs(space.id, genes_NG), measured)
    assert (figures["measured"], figures["coverage"]) == (4, 0.75)
    assert figures["mape"] == pytest.approx((0.2 + 0.25) / 4)


def test_latency_over_macs_is_drawn(tmp_path: Path) -> None:
    networks = {"networks": [[1e6, 0.1], [2e6, 0.3]], "macs_spearman": 1.0}
    draw({"hybrid": networks, "fbnet": networks}, tmp_path / "latency.svg")
    drawn = (tmp_path / "latency.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert len(drawn) > 5_000
