"""Comparison of two devices: latencies of the same architectures on both, measured where available, else predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Arch, Floats, Genes, sample
from nas.core.device import DeviceProfile
from nas.core.errors import InvalidInput, NotFound
from nas.core.metrics import kendall, kendall_interval, spearman
from nas.core.ports import SearchSpace, predict_latency
from nas.schemas.devices import DeviceComparisonSchema, LatencyKind, LatencyPairSchema, ProfileDifferenceSchema
from predictors.storage import load_measurements, load_predictor
from server.api import validate
from server.store.readers.predictors import OnboardedDevice
from server.store.store import Store

MAX_PAIRS = 400
MIN_PAIRS = 100  # random architectures are added to reach this number

GeneRow = tuple[int, ...]


def compare_devices(
    first: str, second: str, space_id: str | None, store: Store, owner: str | None = None
) -> DeviceComparisonSchema:
    """Compare latencies of the architectures measured on either device, and of random ones if those are few.

    Raises NotFound for an unknown device, or if the devices have no predictors for a common space (or for
    ``space_id``); InvalidInput if both names are the same.
    """
    if first == second:
        raise InvalidInput(f"expected two devices, got {first!r} twice")
    common = _common_spaces(first, second, store)
    if not common or (space_id is not None and space_id not in common):
        missing = f"the space {space_id!r}" if space_id is not None else "any common space"
        raise NotFound(
            f"devices {first!r} and {second!r} have no predictors for {missing}; spaces that both have predictors for: "
            f"{', '.join(common) or 'none'}"
        )
    selected = space_id or common[0]
    onboarded = [store.queries.onboarded_device(name, selected) for name in (first, second)]
    one, two = (device for device in onboarded if device is not None)
    space = validate.space_of(one.spec.space, one.spec.data, one.profile.protocol.precision, store)
    measured = [measured_latencies(device, space, store) for device in (one, two)]
    genes_NG = _architectures(space, *measured)
    (first_ms_N, first_measured_N), (second_ms_N, second_measured_N) = (
        _latency_ms(device, known_ms, space, genes_NG, store)
        for device, known_ms in zip((one, two), measured, strict=True)
    )
    kinds: tuple[LatencyKind, LatencyKind] = ("predicted", "measured")
    pairs = [
        LatencyPairSchema(
            arch=Arch(space.id, tuple(row)).id,
            first_ms=first_ms_N[i],
            second_ms=second_ms_N[i],
            first_kind=kinds[int(first_measured_N[i])],
            second_kind=kinds[int(second_measured_N[i])],
        )
        for i, row in enumerate(genes_NG.tolist())
    ]
    return DeviceComparisonSchema(
        first=first,
        second=second,
        space=selected,
        space_name=space.name,
        spaces=common,
        pairs=pairs,
        both_measured=int((first_measured_N & second_measured_N).sum()),
        spearman=_finite_or_none(spearman(first_ms_N, second_ms_N)),
        kendall=_finite_or_none(kendall(first_ms_N, second_ms_N)),
        kendall_interval=kendall_interval(first_ms_N, second_ms_N),
        ratio=float(np.median(second_ms_N / first_ms_N)),
        cards=[one.card, two.card],
        versions=[
            version
            for name in (first, second)
            for version in store.queries.versions(name, owner)
            if version.space == selected
        ],
        differences=profile_differences(one.profile, two.profile),
    )


def profile_differences(first: DeviceProfile, second: DeviceProfile) -> list[ProfileDifferenceSchema]:
    """The fields in which two profiles differ, except their names."""
    old, new = (_flat_fields(profile) for profile in (first, second))
    return [
        ProfileDifferenceSchema(label=field.replace("_", " "), first=_format(value), second=_format(new[field]))
        for field, value in old.items()
        if value != new[field]
    ]


def _flat_fields(profile: DeviceProfile) -> dict[str, object]:
    fields = {name: value for name, value in vars(profile).items() if name not in ("name", "protocol", "noise")}
    noise_floor = profile.noise.floor if profile.noise is not None else None
    return {**fields, **{f"protocol {k}": v for k, v in vars(profile.protocol).items()}, "noise floor": noise_floor}


def _common_spaces(first: str, second: str, store: Store) -> list[str]:
    one, two = ([card.space for card in store.queries.device(name).predictors] for name in (first, second))
    return [space for space in one if space in two]


def measured_latencies(device: OnboardedDevice, space: SearchSpace, store: Store) -> dict[GeneRow, float]:
    """Measured latency by canonical genes."""
    measured: dict[GeneRow, float] = {}
    if device.measurements_blob is not None:
        fitted_to = load_measurements(store.blobs.get(device.measurements_blob)).canonical(space)
        measured |= dict(zip(map(tuple, fitted_to.genes_NG.tolist()), fitted_to.latency_ms_N.tolist(), strict=True))
    return measured | dict(device.readings)


def _architectures(space: SearchSpace, first: dict[GeneRow, float], second: dict[GeneRow, float]) -> Genes:
    """Architectures measured on both devices first, then on either, then random ones of a fixed seed."""
    rows = [*(r for r in first if r in second), *(r for r in first if r not in second)]
    rows += [r for r in second if r not in first]
    if len(rows) < MIN_PAIRS:
        sampled = space.canonical(sample(space.decisions, np.random.default_rng(0), 4 * MIN_PAIRS)).tolist()
        rows = list(dict.fromkeys([*rows, *map(tuple, sampled)]))[:MIN_PAIRS]
    return np.array(rows[:MAX_PAIRS], dtype=np.int64)


def _latency_ms(
    device: OnboardedDevice, measured: dict[GeneRow, float], space: SearchSpace, genes_NG: Genes, store: Store
) -> tuple[Floats, NDArray[np.bool_]]:
    """Latencies in ms and whether each was measured, both of shape (N,)."""
    predictor = load_predictor(device.family, store.blobs.get(device.blob))
    latency_ms_N = predict_latency(predictor, space, genes_NG).mean_ms.copy()
    is_measured_N = np.zeros(len(genes_NG), dtype=bool)
    for i, row in enumerate(map(tuple, genes_NG.tolist())):
        if row in measured:
            latency_ms_N[i], is_measured_N[i] = measured[row], True
    return latency_ms_N, is_measured_N


def _format(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value in (None, "") else f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite_or_none(value: float) -> float | None:
    return value if value == value else None
