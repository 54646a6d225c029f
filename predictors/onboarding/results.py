"""Results of the stages of an onboarding, as ``nas.stages.results`` has those of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.core.device import DeviceProfile
from nas.core.predictor_card import PredictorCard
from nas.core.unsupported import ExcludedChoice
from nas.stages.results import StageResult


@dataclass(frozen=True)
class ProfileResult(StageResult):
    """The device's profile. ``networks``: blob of the networks to measure; ``relatives``: blobs of the measurements of
    other devices by which they were chosen. Both are None where nothing is measured. ``excluded``: choices of the space
    that the device does not run."""

    stage: ClassVar[str] = "profile"
    profile: DeviceProfile
    relatives: tuple[str, ...] | None = None
    networks: str | None = None
    excluded: tuple[ExcludedChoice, ...] = ()


@dataclass(frozen=True)
class MeasureResult(StageResult):
    """How many networks were measured and refused; ``layers`` that were measured singly, if any; in how many
    ``attempts``."""

    stage: ClassVar[str] = "measure"
    measured: int
    refused: int
    layers: int | None = None
    attempts: int = 1


@dataclass(frozen=True)
class EnergyFit:
    """An energy predictor: its family, and the blob of its arrays."""

    family: str
    blob: str


@dataclass(frozen=True, kw_only=True)
class FittedPredictor(StageResult):
    """A latency predictor: its family, the blob of its arrays, and its ``card``, which names its space and profile.
    ``measurements_blob`` has the ``networks`` measurements that it was fitted and checked with, None where nothing was
    measured."""

    card: PredictorCard
    blob: str
    family: str
    measurements_blob: str | None = None
    networks: int = 0


@dataclass(frozen=True, kw_only=True)
class FitResult(FittedPredictor):
    """The first predictor of a device, the ids of its space and profile, and its energy predictor, if any."""

    stage: ClassVar[str] = "fit"
    space_id: str
    profile: str
    energy: EnergyFit | None = None


@dataclass(frozen=True, kw_only=True)
class RefitResult(FittedPredictor):
    """A predictor fitted again with ``added`` measurements: the record of a ``Refitted`` event. ``better``: no worse
    than the one before, and ``why``."""

    stage: ClassVar[str] = "refine"
    better: bool
    why: str
    added: int = 0
