"""Where the operators of a network really run: on the provider that a device names, or on another that took over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas.core.json_types import JsonObject

_NAMED = 5  # operators that a sentence names
KINDS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CPU", "CPUExecutionProvider", "DnnlExecutionProvider", "XnnpackExecutionProvider"),
    "gpu": (
        *("GPU", "CUDA", "CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"),
        *("ROCMExecutionProvider", "MIGraphXExecutionProvider", "DmlExecutionProvider", "WebGpuExecutionProvider"),
    ),
    "npu": ("NPU", "QNNExecutionProvider", "VitisAIExecutionProvider", "RknpuExecutionProvider"),
}
"""Providers by what they run on; those that choose for themselves, such as CoreML's, are of no kind."""


@dataclass(frozen=True)
class Placement:
    """Where a runtime placed the nodes of a network, after fusing.

    ``provider`` is the one that the device names (a runtime may call it delegate or device). ``nodes`` counts nodes by
    provider, ``ms`` is the time by provider as the runtime's profiler reports it, empty where it reports none.
    ``fallback`` lists the operators that another provider ran, sorted; ``in_float32`` those of a float16 network that
    were computed in float32 all the same.
    """

    provider: str
    nodes: Mapping[str, int] = field(default_factory=dict)
    ms: Mapping[str, float] = field(default_factory=dict)
    fallback: tuple[str, ...] = ()
    in_float32: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the device's own provider ran all of the network, in its precision."""
        return not self.fallback and not self.in_float32

    def share(self, provider: str) -> float:
        """The share of a provider, or of a kind of ``KINDS``, 0 to 1: of the time, or of the nodes where no times are
        reported."""
        amounts: Mapping[str, float] = self.ms if sum(self.ms.values()) > 0 else self.nodes
        total = sum(amounts.values())
        return sum(amount for name, amount in amounts.items() if _is_of(name, provider)) / total if total else 0.0

    def meets(self, shares: Mapping[str, float]) -> bool:
        """Whether each provider or kind has the share that is demanded of it."""
        return all(self.share(provider) >= demanded - 1e-9 for provider, demanded in shares.items())

    @property
    def sentence(self) -> str:
        """For people, such as ``3 of 12 nodes ran outside CUDAExecutionProvider: Resize, TopK``."""
        total = sum(self.nodes.values())
        sentences = []
        if self.fallback:
            outside = total - self.nodes.get(self.provider, 0)
            sentences.append(f"{outside} of {total} nodes ran outside {self.provider}: {_listed(self.fallback)}")
        if self.in_float32:
            sentences.append(f"computed in float32 instead of float16: {_listed(self.in_float32)}")
        return "; ".join(sentences) or f"all {total} nodes ran on {self.provider}"

    @staticmethod
    def from_json(record: JsonObject) -> Placement:
        """From the JSON form of ``dataclasses.asdict``."""
        in_float32 = tuple(record.get("in_float32", ()))
        return Placement(record["provider"], record["nodes"], record["ms"], tuple(record["fallback"]), in_float32)


@dataclass(frozen=True)
class LayerTime:
    """The time of one node of a network in ms, as the runtime's own profiler reports it; ``name`` is that of the node
    in the runtime."""

    name: str
    operator: str
    provider: str
    ms: float

    @staticmethod
    def from_json(record: JsonObject) -> LayerTime:
        """From the JSON form of ``dataclasses.asdict``."""
        return LayerTime(record["name"], record["operator"], record["provider"], record["ms"])


def operator_ms(layers: Sequence[LayerTime]) -> dict[str, float]:
    """The time of all nodes with the same operator in ms, by operator, the longest first."""
    times: dict[str, float] = {}
    for layer in layers:
        times[layer.operator] = times.get(layer.operator, 0.0) + layer.ms
    return dict(sorted(times.items(), key=lambda pair: -pair[1]))


def placement_of(provider: str, layers: tuple[LayerTime, ...]) -> Placement:
    """The placement that the times of all nodes show."""
    nodes: dict[str, int] = {}
    ms: dict[str, float] = {}
    for layer in layers:
        nodes[layer.provider] = nodes.get(layer.provider, 0) + 1
        ms[layer.provider] = ms.get(layer.provider, 0.0) + layer.ms
    fallback = sorted({layer.operator for layer in layers if layer.provider != provider})
    return Placement(provider, nodes, ms, tuple(fallback))


def _listed(operators: Sequence[str]) -> str:
    more = f" and {len(operators) - _NAMED} more" if len(operators) > _NAMED else ""
    return f"{', '.join(operators[:_NAMED])}{more}"


def _is_of(name: str, provider: str) -> bool:
    """Whether a provider is the one of that name or kind; devices with numbers, as ``GPU.1``, are of their kind."""
    device = name.replace(":", ".").partition(".")[0].upper()
    return name == provider or device in {of_kind.upper() for of_kind in KINDS.get(provider, ())}
