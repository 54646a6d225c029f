"""What the clocks of a GPU did while a network ran. Needs neither numpy nor pydantic, since agents read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas.core.json_types import JsonObject

THROTTLE_REASONS: Mapping[int, str] = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "temperature, by software",
    0x40: "temperature, by hardware",
    0x80: "power brake",
}
"""Bits of NVML's clock throttle reasons; those that are no throttling, such as an idle GPU, are left out."""


@dataclass(frozen=True)
class GpuClocks:
    """The clock of a GPU's multiprocessors in MHz and the highest that it has, its temperature in °C, and why it was
    throttled, if so."""

    sm_mhz: int
    max_sm_mhz: int
    temperature_c: int
    throttled: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """For people, such as ``1,410 of 1,980 MHz, 61 °C, throttled: power cap``."""
        reasons = f", throttled: {'; '.join(self.throttled)}" if self.throttled else ""
        return f"{self.sm_mhz:,} of {self.max_sm_mhz:,} MHz, {self.temperature_c} °C{reasons}"

    @staticmethod
    def from_json(record: JsonObject) -> GpuClocks:
        """From the JSON form of ``dataclasses.asdict``."""
        return GpuClocks(**{**record, "throttled": tuple(record["throttled"])})


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """The reasons for throttling in NVML's bits."""
    return tuple(reason for bit, reason in THROTTLE_REASONS.items() if bits & bit)
