"""Children that run the whole service on a machine whose networks take time by their multiplications alone.

Measuring a real machine takes a minute for each device and search, and longer on a busy one. Where the service is the
point and not the protocol, its workers measure by this file: everything else in them is real.
"""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from predictors.measurement.onnx_macs import count_macs
from tests.support.paths import ROOT

# Found on the path before anything else, so that it runs in every process of the service.
_WORKERS_RUN = """
import sys, types
def find(name):
    if name != "run_job":
        raise AttributeError(name)
    from {module} import {function}
    return {function}
sys.modules["workers.runner"] = module = types.ModuleType("workers.runner")
module.__getattr__ = find
"""
BASE_MS, MS_PER_MAC = 0.0125, 3.4e-8  # about what small networks take on one core
OWN_SHARE = 0.02  # by how much a network differs from that, so that no predictor is perfect and its bound has width
HALF_WIDTH = 1e-3  # of an interval, relative


def workers_run(function: Callable[..., Any], folder: Path) -> str:
    """``PYTHONPATH`` for a child ``nas`` all of whose workers run ``function`` in place of ``workers.runner.run_job``;
    ``folder`` gets a file for that."""
    folder.mkdir(parents=True)
    text = _WORKERS_RUN.format(module=function.__module__, function=function.__name__)
    (folder / "sitecustomize.py").write_text(text)
    return os.pathsep.join([str(folder), str(ROOT)])


def run_job(*arguments: Any) -> Iterator[Any]:
    """``workers.runner.run_job`` on the steady machine."""
    from nas.core.device import DeviceProfile, MachineNoise, Measurement
    from nas.core.spec import DeviceSpec
    from predictors.measurement.machine import describe_machine
    from predictors.onboarding.profiling import protocol_of

    def profile_for(spec: DeviceSpec) -> DeviceProfile:
        described = describe_machine(spec.name, protocol_of(spec))
        return replace(described, canary_ms=0.05, noise=MachineNoise(0.002, (1.0,), 1.0))

    def measure(
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str] = (),
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Measurement]:
        for model in models:
            own = 2 * zlib.crc32(model) / 2**32 - 1  # the same whenever it is measured
            ms = (BASE_MS + MS_PER_MAC * count_macs(model)) * (1 + OWN_SHARE * own)
            protocol = profile.protocol
            low_ms, high_ms = (1 - HALF_WIDTH) * ms, (1 + HALF_WIDTH) * ms
            yield Measurement(protocol.id, profile.id, ms, low_ms, high_ms, 100, 0.002, 1.0, samples_ms=(ms,) * 3)

    sys.modules.pop("workers.runner", None)
    runner = importlib.import_module("workers.runner")
    for name, replacement in {"profile_for": profile_for, "measure_isolated": measure}.items():
        assert hasattr(runner, name)
        setattr(runner, name, replacement)
    yield from runner.run_job(*arguments)
