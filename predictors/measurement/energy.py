"""Meters: the energy of a processor by RAPL, energy and clocks of an NVIDIA GPU by NVML. A machine without one has no
such figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from nas.core.gpu_clocks import GpuClocks, throttle_reasons
from nas.core.runtimes import RuntimeTarget

EnergyMeter = Callable[[], float]
"""Energy used since some time, in mJ; never falls."""

_POWERCAP = Path("/sys/class/powercap")
_GPU_WORDS = ("cuda", "tensorrt", "nvtensorrt")


def find_meter(target: RuntimeTarget, powercap: Path = _POWERCAP) -> EnergyMeter | None:
    """The meter of what runs the networks: NVML for NVIDIA's GPUs, else RAPL of the whole processor; None if there is
    none that this user may read."""
    if target.provider.lower().startswith(_GPU_WORDS):
        return nvml_meter(_gpu_number(target))
    return rapl_meter(powercap)


def rapl_meter(powercap: Path = _POWERCAP) -> EnergyMeter | None:
    """The sum of all processor packages; the registers wrap around, which is undone."""
    packages = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "name").read_text().startswith("package"):
                int((folder / "energy_uj").read_text())
                packages.append((folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())))
    if not packages:
        return None
    latest_uj = {path: int(path.read_text()) for path, _ in packages}
    total_uj = 0

    def read() -> float:
        nonlocal total_uj
        for path, range_uj in packages:
            now_uj = int(path.read_text())
            total_uj += (now_uj - latest_uj[path]) % (range_uj + 1)
            latest_uj[path] = now_uj
        return total_uj / 1e3

    return read


def clock_reader(target: RuntimeTarget) -> Callable[[], GpuClocks] | None:
    """What reads the clocks of the NVIDIA GPU that runs the networks; None without one, or without
    ``nvidia-ml-py``."""
    provider = target.provider.lower()
    return nvml_clocks(_gpu_number(target)) if provider.startswith(_GPU_WORDS) else None


def nvml_clocks(gpu: int) -> Callable[[], GpuClocks] | None:
    """The clocks of a GPU by NVML; None where it does not tell them."""
    try:
        import pynvml
    except ImportError:
        return None

    def read() -> GpuClocks:
        return GpuClocks(
            int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            throttle_reasons(int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        )

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
        read()
    except pynvml.NVMLError:
        return None
    return read


def _gpu_number(target: RuntimeTarget) -> int:
    return int(target.provider.partition(":")[2] or 0)


def nvml_meter(gpu: int) -> EnergyMeter | None:
    """The total energy of a GPU; None without ``nvidia-ml-py`` or on a GPU that does not count it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
