"""The predictor card: how good a latency predictor is, on networks that a fit without them predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from nas.core.device import DeviceProfile, LatencySource
from nas.core.json_types import JsonObject
from nas.core.spec import RooflineSpec, TableSpec
from nas.core.unsupported import ExcludedChoice


@dataclass(frozen=True)
class CardNoise:
    """How steady the device was when it was profiled: ``floor`` is the relative standard deviation between repeated
    measurements of one network, below which no error of a predictor can be read; ``levels`` are the speeds it was seen
    at, as times relative to the undisturbed level; ``undisturbed`` is the share of time at that level. ``refused``
    networks could not be measured."""

    floor: float
    levels: tuple[float, ...]
    undisturbed: float
    refused: int


@dataclass(frozen=True)
class EnergyAccuracy:
    """The accuracy of an energy predictor over ``held_out`` networks; ``n`` were used for fitting. ``mape`` in %."""

    n: int
    held_out: int
    mape: float
    spearman: float
    coverage: float


@dataclass(frozen=True)
class OptionFigure:
    """A way to learn a device from few measurements: its root mean square error where each network in turn is left out,
    relative to the mean latency, and its weight in the predictor, 0 to 1; the weights of all options sum to 1."""

    name: str
    error: float
    weight: float


@dataclass(frozen=True)
class TransferChoice:
    """What a device was learned by from few measurements: the ``options``, the most trusted first, and the known
    ``relatives`` by name. ``advice``: that nothing predicts it yet, and how many networks would do; empty otherwise."""

    options: tuple[OptionFigure, ...]
    relatives: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class UploadedTable:
    """In place of a protocol: the latencies of the ``table`` were measured by a protocol that is not recorded."""

    table: TableSpec


@dataclass(frozen=True)
class PeakFigures:
    """In place of a protocol: the ``roofline`` that latencies were computed from. Nothing was measured."""

    roofline: RooflineSpec


# The fields of a ``MeasurementProtocol`` with its id. Cards of earlier versions hold those of their own protocol.
ProtocolFields = Mapping[str, int | float | str]


@dataclass(frozen=True)
class PredictorCard:
    """The figures of a predictor over ``held_out`` networks, as predicted by a fit without them: ``mape`` in %, rank
    correlations, the share of latencies at or below the 95 % bound (``coverage``, 0 to 1). The predictor itself is
    fitted to ``n`` networks. ``measured_error``: relative standard errors of ``measured_ms``, empty if unknown.
    ``kendall_interval``: 95 % bootstrap interval of ``kendall``. ``excluded``: choices of the space that the device
    does not run, so that no search for it takes them. ``choice``: by what a device was learned from few measurements.
    ``as_written``: the networks were measured with their inactive parts.

    ``kind`` is ``estimated`` where latencies were computed from peak figures: nothing was measured, so there are no
    figures, and ``range_ms`` is that of the estimates.
    """

    profile: str
    space: str
    space_name: str
    family: str
    protocol: UploadedTable | PeakFigures | ProtocolFields
    n: int
    calibration: int
    range_ms: tuple[float, float]
    held_out: int = 0
    mape: float | None = None
    spearman: float | None = None
    kendall: float | None = None
    kendall_interval: tuple[float, float] | None = None
    coverage: float | None = None
    measured_ms: tuple[float, ...] = ()
    predicted_ms: tuple[float, ...] = ()
    upper_ms: tuple[float, ...] = ()
    measured_error: tuple[float, ...] = ()
    noise: CardNoise | None = None
    kind: Literal["predicted", "estimated"] = "predicted"
    energy: EnergyAccuracy | None = None
    excluded: tuple[ExcludedChoice, ...] = ()
    choice: TransferChoice | None = None
    as_written: bool = False

    @property
    def source(self) -> LatencySource:
        """Where the latencies come from; ``worker`` for all that were measured by a protocol of the service."""
        if isinstance(self.protocol, UploadedTable):
            return "table"
        return "roofline" if isinstance(self.protocol, PeakFigures) else "worker"

    @staticmethod
    def from_json(record: JsonObject) -> PredictorCard:
        """A stored card. Earlier versions compared estimates with the formula that they were computed from; such
        figures are left out. Raises pydantic's ValidationError, a ValueError, for a record that is no card."""
        card = _CARD.validate_python(record)
        if card.kind == "predicted":
            return card
        return PredictorCard(
            profile=card.profile,
            space=card.space,
            space_name=card.space_name,
            family=card.family,
            protocol=card.protocol,
            n=card.n,
            calibration=card.calibration,
            range_ms=card.range_ms,
            kind=card.kind,
        )


_CARD = TypeAdapter(PredictorCard)


def protocol_fields(profile: DeviceProfile) -> ProtocolFields:
    """The protocol of a profile as a card holds it."""
    return {"id": profile.protocol.id, **vars(profile.protocol)}
