"""Two devices side by side: the same networks on both, measured where they were, else predicted."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Arch, Floats, Genes, sample
from nas.core.device import DeviceProfile
from nas.core.errors import InvalidInput, NotFound
from nas.core.metrics import kendall, spearman
from nas.core.ports import SearchSpace, predict_latency
from nas.schemas.devices import DeviceComparisonSchema, LatencyKind, LatencyPairSchema, ProfileDifferenceSchema
from predictors.storage import load_measured, load_predictor
from server.api import validate
from server.store.queries import KnownDevice
from server.store.store import Store

MOST = 400  # networks that are shown
FEWEST = 100  # where fewer were measured, random ones are predicted beside them

Row = tuple[int, ...]


def compare(
    first: str, second: str, space_id: str | None, store: Store, owner: str | None = None
) -> DeviceComparisonSchema:
    """Latencies on both devices of the networks that were measured on either, and random ones if these are few.

    Raises NotFound for a device that there is not, or where the two have no predictors for a common space (or the one
    that was asked for), InvalidInput for twice the same.
    """
    if first == second:
        raise InvalidInput(f"expected two devices, got {first!r} twice")
    spaces = [[card.space for card in store.queries.device(name).predictors] for name in (first, second)]
    common = [space for space in spaces[0] if space in spaces[1]]
    if not common or (space_id is not None and space_id not in common):
        wanted = f"the space {space_id!r}" if space_id is not None else "any common space"
        raise NotFound(
            f"devices {first!r} and {second!r} have no predictors for {wanted}; those that both know: "
            f"{', '.join(common) or 'none'}"
        )
    chosen = space_id or common[0]
    sides = [store.queries.known(name, chosen) for name in (first, second)]
    one, two = (side for side in sides if side is not None)
    space = validate.space_of(one.spec.space, one.spec.data)
    measured = [_measured(side, space, store) for side in (one, two)]
    genes_NG = _networks(space, *measured)
    (first_ms, first_known), (second_ms, second_known) = (
        _latency(side, known, space, genes_NG, store) for side, known in zip((one, two), measured, strict=True)
    )
    kinds: tuple[LatencyKind, LatencyKind] = ("predicted", "measured")
    pairs = [
        LatencyPairSchema(
            arch=Arch(space.id, tuple(row)).id,
            first_ms=first_ms[i],
            second_ms=second_ms[i],
            first_kind=kinds[int(first_known[i])],
            second_kind=kinds[int(second_known[i])],
        )
        for i, row in enumerate(genes_NG.tolist())
    ]
    return DeviceComparisonSchema(
        first=first,
        second=second,
        space=chosen,
        space_name=space.name,
        spaces=common,
        pairs=pairs,
        both_measured=int((first_known & second_known).sum()),
        spearman=_number(spearman(first_ms, second_ms)),
        kendall=_number(kendall(first_ms, second_ms)),
        ratio=float(np.median(second_ms / first_ms)),
        cards=[one.card, two.card],
        versions=[
            version
            for name in (first, second)
            for version in store.queries.versions(name, owner)
            if version.space == chosen
        ],
        differences=differences(one.profile, two.profile),
    )


def differences(first: DeviceProfile, second: DeviceProfile) -> list[ProfileDifferenceSchema]:
    """In what two profiles differ, but for their names."""
    records = [profile.as_json() for profile in (first, second)]
    flat = [
        {**{k: v for k, v in r.items() if k not in ("name", "protocol")}}
        | {f"protocol {k}": v for k, v in r["protocol"].items()}
        for r in records
    ]
    return [
        ProfileDifferenceSchema(what=what.replace("_", " "), first=_shown(value), second=_shown(flat[1][what]))
        for what, value in flat[0].items()
        if value != flat[1][what]
    ]


def _measured(side: KnownDevice, space: SearchSpace, store: Store) -> dict[Row, float]:
    found: dict[Row, float] = {}
    if side.known is not None:
        genes_NG, latency_ms_N = load_measured(store.blobs.get(side.known))
        rows = map(tuple, space.canonical(genes_NG).tolist())
        found |= dict(zip(rows, latency_ms_N.tolist(), strict=True))
    return found | dict(side.readings)


def _networks(space: SearchSpace, first: dict[Row, float], second: dict[Row, float]) -> Genes:
    """Those known on both first, then on either, then random ones, always the same."""
    rows = [*(r for r in first if r in second), *(r for r in first if r not in second)]
    rows += [r for r in second if r not in first]
    if len(rows) < FEWEST:
        drawn = space.canonical(sample(space.decisions, np.random.default_rng(0), 4 * FEWEST)).tolist()
        rows = list(dict.fromkeys([*rows, *map(tuple, drawn)]))[:FEWEST]
    return np.array(rows[:MOST], dtype=np.int64)


def _latency(
    side: KnownDevice, measured: dict[Row, float], space: SearchSpace, genes_NG: Genes, store: Store
) -> tuple[Floats, np.ndarray]:
    predictor = load_predictor(side.family, store.blobs.get(side.blob))
    latency_ms = predict_latency(predictor, space, genes_NG).mean_ms.copy()
    known = np.zeros(len(genes_NG), dtype=bool)
    for i, row in enumerate(map(tuple, genes_NG.tolist())):
        if row in measured:
            latency_ms[i], known[i] = measured[row], True
    return latency_ms, known


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value in (None, "") else f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float) -> float | None:
    return value if value == value else None
