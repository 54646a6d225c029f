"""The waterline of networks: bounds of time, fusion, and figures of machines that are fitted to measurements."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core import registry
from nas.core.arch import as_archs, sample
from nas.core.errors import InvalidInput
from nas.core.network import LayerSummary, summarise
from nas.core.ports import ImageShape
from nas.core.waterline import FLOAT_BYTES, MachineRates, fit_rates, moved_bytes, waterline


def layer(name: str, macs: int, numbers: int) -> LayerSummary:
    """Half of the numbers are read, half written."""
    shape = (numbers // 2, 1, 1)
    return LayerSummary(name, "dense", shape, shape, 0, macs)


def networks_of_digits(count: int) -> list[list[LayerSummary]]:
    space = registry.load_space("mobilenet_v3")
    assert space.build is not None
    built = space.build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    genes_NG = built.canonical(sample(built.decisions, np.random.default_rng(0), count))
    return [[summarise(x) for x in built.layers(arch)] for arch in as_archs(built.id, genes_NG)]


def test_two_layers_by_hand() -> None:
    """1,000 operations and 10 bytes, 100 and 50, on a machine of 100 operations and 10 bytes a second: 10 s and 5 s."""
    layers = [layer("a.one", 500, 10), layer("a.two", 50, 50)]
    line = waterline(layers, MachineRates(100.0, 10.0), bytes_each=1)
    assert [w.ms for w in line.layers] == [10_000.0, 5_000.0]
    assert [w.bound for w in line.layers] == ["compute", "memory"]
    assert [w.intensity for w in line.layers] == [100.0, 2.0]
    assert line.rates.level == 10.0
    assert line.efficiency == pytest.approx(1100 / 100 / 15)
    assert line.memory_share == pytest.approx(1 / 3)
    [block] = line.blocks  # 1,100 operations and 5 + 25 bytes as one kernel
    assert (block.name, block.ms, block.fused_ms, block.saved_ms) == ("a", 15_000.0, 11_000.0, 4_000.0)


def test_bounds_hold_for_networks() -> None:
    rates = MachineRates(5e10, 1e10)
    for layers in networks_of_digits(20):
        line = waterline(layers, rates)
        for water, summary in zip(line.layers, layers, strict=True):
            assert water.ms >= 2e3 * summary.macs / rates.flops_per_s
            assert water.ms >= 1e3 * moved_bytes(summary) / rates.bytes_per_s * (1 - 1e-12)
        assert 0 < line.efficiency <= 1
        assert all(block.fused_ms <= block.ms * (1 + 1e-12) for block in line.blocks)
        assert sum(block.ms for block in line.blocks) == pytest.approx(line.ms)


def test_fitting_finds_the_machine_that_the_times_are_from() -> None:
    networks, true = networks_of_digits(40), MachineRates(4e10, 1e10)
    measured = np.array([waterline(layers, true).ms for layers in networks])
    fitted = fit_rates(networks, measured)
    assert fitted.networks == 40
    assert fitted.error_percent < 2.0
    assert fitted.rates.bytes_per_s == pytest.approx(true.bytes_per_s, rel=0.1)
    assert fitted.rates.level == pytest.approx(true.level, rel=0.2)
    noisy = fit_rates(networks, measured * np.random.default_rng(1).uniform(0.8, 1.2, 40))
    assert noisy.error_percent > 5.0


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 8"):
        fit_rates(networks_of_digits(7), np.ones(7))
    with pytest.raises(InvalidInput, match="layers"):
        waterline([], MachineRates(1.0, 1.0))
    with pytest.raises(InvalidInput, match="positive"):
        waterline([layer("a", 1, 2)], MachineRates(0.0, 1.0))
    assert moved_bytes(layer("a", 1, 2)) == 2 * FLOAT_BYTES
