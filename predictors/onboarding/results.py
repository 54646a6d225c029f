"""Results of the stages of an onboarding, as ``nas.stages.results`` has those of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.core.device import DeviceProfile
from nas.core.predictor_card import PredictorCard
from nas.stages.results import StageResult


@dataclass(frozen=True)
class ProfileResult(StageResult):
    """The device's profile. ``networks``: blob of the networks to measure; ``relatives``: blobs of the measurements of
    other devices by which they were chosen. Both are None where nothing is measured."""

    stage: ClassVar[str] = "profile"
    profile: DeviceProfile
    relatives: tuple[str, ...] | None = None
    networks: str | None = None


@dataclass(frozen=True)
class MeasureResult(StageResult):
    """How many networks were measured and refused; ``layers`` that were measured singly, if any."""

    stage: ClassVar[str] = "measure"
    measured: int
    refused: int
    layers: int | None = None


@dataclass(frozen=True)
class EnergyFit:
    """An energy predictor: its family, and the blob of its arrays."""

    family: str
    blob: str


@dataclass(frozen=True)
class FitResult(StageResult):
    """A latency predictor: its family, the blob of its arrays, its ``card``, the ids of its space and profile.
    ``known`` is the blob of the ``networks`` measurements that it was fitted and checked with, None where nothing was
    measured."""

    stage: ClassVar[str] = "fit"
    card: PredictorCard
    blob: str
    space_id: str
    family: str
    profile: str
    known: str | None = None
    networks: int = 0
    energy: EnergyFit | None = None


@dataclass(frozen=True)
class RefitResult(StageResult):
    """A predictor fitted again with ``added`` measurements, as ``FitResult``; its card names its space and profile.
    ``better``: no worse than the one before, and ``why``."""

    stage: ClassVar[str] = "refine"
    card: PredictorCard
    blob: str
    family: str
    better: bool
    why: str
    known: str | None = None
    networks: int = 0
    added: int = 0
