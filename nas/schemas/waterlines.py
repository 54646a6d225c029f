"""REST schemas of the waterline report of a network on a device."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from nas.core.waterline import LayerBound, Waterline

RatesSource = Literal["given", "peak figures", "fitted"]


class LayerWaterSchema(BaseModel):
    """A layer: operations for each byte moved, the least time, and what binds it."""

    name: str
    op: str
    intensity: float
    ms: float
    bound: LayerBound


class BlockWaterSchema(BaseModel):
    """A block: the least time of its layers one by one and as one kernel."""

    name: str
    ms: float
    fused_ms: float
    saved_ms: float


class WaterlineSchema(BaseModel):
    """Which layers of a network a machine computes at its peak and which wait for memory, by two figures.

    ``source``: where these are from: the caller, a device that is known by its ``peak figures`` alone, or ``fitted`` to
    ``networks`` measured ones, with the mean absolute error ``error_percent`` of the times so computed. Nothing here is
    measured. ``level``: operations per byte at which both take as long. ``efficiency``: share of the time in which the
    machine computes at its peak; ``memory_share``: of layers that are bound by memory.
    """

    device: str
    source: RatesSource
    flops_per_s: float
    bytes_per_s: float
    level: float
    networks: int | None = None
    error_percent: float | None = None
    ms: float
    efficiency: float
    memory_share: float
    layers: list[LayerWaterSchema]
    blocks: list[BlockWaterSchema]

    @property
    def source_sentence(self) -> str:
        """Where the figures of the machine are from, for people."""
        rates = f"{self.flops_per_s / 1e9:.3g} G operations and {self.bytes_per_s / 1e9:.3g} GB per second"
        if self.source == "fitted":
            return (
                f"{rates}: fitted to {self.networks} networks measured on {self.device}, whose latencies they miss by "
                f"{self.error_percent:.0f} % on average."
            )
        return f"{rates}: {f'peak figures of {self.device}' if self.source == 'peak figures' else 'as given'}."

    @classmethod
    def of(
        cls,
        line: Waterline,
        device: str,
        source: RatesSource,
        networks: int | None = None,
        error_percent: float | None = None,
    ) -> WaterlineSchema:
        """The report of a waterline."""
        return cls(
            device=device,
            source=source,
            flops_per_s=line.rates.flops_per_s,
            bytes_per_s=line.rates.bytes_per_s,
            level=line.rates.level,
            networks=networks,
            error_percent=error_percent,
            ms=line.ms,
            efficiency=line.efficiency,
            memory_share=line.memory_share,
            layers=[
                LayerWaterSchema(name=w.name, op=w.op, intensity=w.intensity, ms=w.ms, bound=w.bound)
                for w in line.layers
            ],
            blocks=[
                BlockWaterSchema(name=b.name, ms=b.ms, fused_ms=b.fused_ms, saved_ms=b.saved_ms) for b in line.blocks
            ],
        )
