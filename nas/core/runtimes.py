"""Runtimes as plug-ins: what runs a network on a device. One file and one entry point of ``nas.runtimes`` each.

A device's profile names its runtime and provider in ``DeviceProfile.runtime``, such as ``openvino CPU``. Needs neither
numpy nor pydantic, since the device agent loads runtimes as the service does, and installs only the one that it uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from nas.core import entry_points
from nas.core.errors import InvalidPlugin, MeasurementRefused
from nas.core.placement import LayerTime, Placement

Precision = Literal["float32", "float16", "int8", "mixed"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEFAULT_RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class RuntimeTarget:
    """A runtime by name, and what of it runs networks: an execution provider, delegate or device. An empty
    ``provider`` is the runtime's default."""

    runtime: str = DEFAULT_RUNTIME
    provider: str = ""

    @staticmethod
    def parse(label: str) -> RuntimeTarget:
        """Inverse of ``str``: of ``DeviceProfile.runtime``."""
        runtime, _, provider = label.partition(" ")
        return RuntimeTarget(runtime, provider)

    def __str__(self) -> str:
        return f"{self.runtime} {self.provider}".rstrip()


@dataclass(frozen=True)
class Execution:
    """How a model is run: by what, with how many threads and images at once. ``program``: the command line of a runtime
    that is a program, which may take ``limit_s`` for a model, on hardware of at most ``peak_macs_per_s``.
    ``precision``: of the models, which a runtime may compute in another one."""

    target: RuntimeTarget = RuntimeTarget()
    threads: int = 1
    batch: int = 1
    program: tuple[str, ...] = ()
    limit_s: float = 600.0
    peak_macs_per_s: float = 1e15
    precision: Precision = "float32"


@dataclass(frozen=True)
class RuntimeIdentity:
    """A runtime as a profile names it: its ``target`` with the provider spelt out, its version, and that of what lies
    below it (``driver``), where it is known."""

    target: RuntimeTarget
    version: str
    driver: str = ""


def _finished() -> None:
    """``synchronise`` of a runtime whose runs end when they return."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with input and output bound: ``run`` starts one inference, ``synchronise`` returns once all
    that were started have ended."""

    run: Callable[[], object]
    synchronise: Callable[[], object] = _finished


@dataclass(frozen=True)
class RuntimeReport:
    """What a runtime says of a model: its placement, and the time of each node where its profiler reports them."""

    placement: Placement
    layers: tuple[LayerTime, ...] = ()


def as_it_is(model: bytes, execution: Execution) -> bytes:
    """``prepare`` of a runtime that reads ONNX."""
    return model


@dataclass(frozen=True)
class Runtime:
    """A runtime that is timed from outside, by the measurement protocol. ``summary``: one sentence for people.

    ``identify`` gives the runtime's version and spells out the provider; ``prepare`` turns the bytes of an ONNX model
    into the runtime's own form; ``load`` puts that into memory; ``report`` runs it once under the runtime's profiler.
    ``synchronise`` waits for all inferences of this process. ``asynchronous``: whether ``run`` returns before an
    inference has ended, so that the time of the calling thread says nothing. All raise MeasurementRefused, with what
    is missing, for what cannot be done on this machine. ``requirement``: what ``pip install`` gets.
    """

    name: str
    summary: str
    requirement: str
    identify: Callable[[RuntimeTarget], RuntimeIdentity]
    load: Callable[[bytes, Execution], LoadedModel]
    report: Callable[[bytes, Execution], RuntimeReport]
    prepare: Callable[[bytes, Execution], bytes] = as_it_is
    synchronise: Callable[[], object] = _finished
    asynchronous: bool = False


@dataclass(frozen=True)
class ProgramTimes:
    """What a program of the user's says of a model: times of single inferences in ms, or one value that it has made of
    many; the peak of its memory in bytes, the energy of an inference in mJ, and the placement, where it tells them."""

    samples_ms: tuple[float, ...]
    peak_bytes: int | None = None
    energy_mj: float | None = None
    placement: Placement | None = None


@dataclass(frozen=True)
class ProgramRuntime:
    """A runtime that times itself: a program that gets a model. ``time`` raises MeasurementRefused for answers that
    cannot be right."""

    name: str
    summary: str
    requirement: str
    identify: Callable[[Execution], RuntimeIdentity]
    time: Callable[[bytes, Execution], ProgramTimes] = field(repr=False)


AnyRuntime = Runtime | ProgramRuntime


def runtime_names() -> list[str]:
    """The registered names, sorted; imports nothing."""
    return sorted(entry_points.installed("nas.runtimes"))


def load_runtime(name: str) -> AnyRuntime:
    """The runtime of a name. Raises UnknownName with the nearest valid name, InvalidPlugin, and MeasurementRefused with
    the command that installs it where its package is missing."""
    plugin = entry_points.load("nas.runtimes", name, entry_points.installed("nas.runtimes"))
    if not isinstance(plugin, Runtime | ProgramRuntime):
        raise InvalidPlugin(f"entry point {name!r} of nas.runtimes: expected a Runtime, got {plugin!r}")
    return plugin


def missing(runtime: str, requirement: str) -> MeasurementRefused:
    """The error for a runtime whose package is not installed on this machine."""
    return MeasurementRefused(f"the runtime {runtime} is not installed on this machine: pip install {requirement}")
