"""Adding a device: profile the machine, measure a stratified sample of subnets, learn and check a predictor."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Arch, Genes, as_archs, choice_counts, sample
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import InvalidInput, MeasurementRefused
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, StageStarted, Warned
from nas.core.layers import Layer
from nas.core.ports import BlobStore, Measurer, SearchSpace
from nas.core.spec import DeviceSpec
from predictors.families.bayesian_linear import FEWEST as FEWEST_ALONE
from predictors.families.layer_lut import LayerLut, LayerLutModel, every_layer, layer_key, table_of, to_measure
from predictors.families.transfer import FEWEST as FEWEST_DEVICE
from predictors.families.transfer import Relatives, choose
from predictors.measurement.protocol import AGAIN, FLOOR_WEIGHT, student_quantile
from predictors.onboarding.card import make_card
from predictors.onboarding.fitting import HELD_OUT, Fitted, fit_family, fit_transfer
from predictors.onboarding.selection import d_optimal
from predictors.storage import Known, dump_predictor, load_known

GROUP = 16
_ENOUGH = round(FEWEST_ALONE / (1 - HELD_OUT)) + 1
POOL = 512  # networks of which the most telling ones are chosen


def onboard(
    spec: DeviceSpec,
    space: SearchSpace,
    export_onnx: Callable[[Arch], bytes],
    measure: Measurer,
    profile_machine: Callable[[str, int], DeviceProfile],
    blobs: BlobStore,
    state: SearchState,
    clock: Callable[[], float],
    relatives: Sequence[str] = (),
    export_layer: Callable[[Layer | None], bytes] | None = None,
) -> Iterator[Event]:
    """Yields the stages profile, measure and fit; goes on from ``state``. Networks once measured are kept in a
    checkpoint and never measured again.

    ``relatives`` are blobs of what is known of other devices (``predictors.storage.Known``), where the device
    is learned from them: a handful of networks will do then, and they are chosen for what each would tell.
    ``export_layer`` gives the model of a single layer, or of none, for a predictor that composes them: all layers of
    the space are then measured before the networks.

    Raises UnknownName for the family, MeasurementRefused if fewer networks could be measured than it needs, and
    NotMeasuredYet as ``measure`` does.
    """
    begun = clock()
    done = state.finished.get("profile", {})
    relatives = done.get("relatives", relatives)  # those by which networks were chosen
    kin = None
    if spec.beside_relatives:
        kin = known_devices(space, [load_known(blobs.get(blob)) for blob in relatives], spec.samples)
    else:
        registry.load_family(spec.predictor)  # an unknown one is heard of before anything is measured
    layers = every_layer(space) if spec.predictor == LayerLutModel.family else {}
    single = to_measure(layers) if layers else []
    if "networks" in done:
        genes, held_out = _chosen(blobs.get(done["networks"]))
    elif kin is not None:
        genes = informative(space, kin, spec.samples, spec.seed)
        held_out = np.zeros(len(genes), dtype=bool)
    else:
        genes, held_out = stratified_and_telling(space, spec.samples, spec.seed)
    if "networks" in done:
        profile = DeviceProfile.from_json(dict(done["profile"]))
    else:
        yield StageStarted("profile", 0, 3)
        profile = profile_machine(spec.name, spec.threads)
        chosen = blobs.put(json.dumps({"genes": genes.tolist(), "held_out": held_out.tolist()}).encode())
        result = {"profile": profile.as_json(), "relatives": [*relatives], "networks": chosen}
        yield Progress("profile", 1, 1, "machines", message=expectation(profile, len(genes)))
        if (advice := how_to_do_better(profile)) is not None:
            yield Warned("profile", advice)
        yield StageFinished("profile", clock() - begun, result)

    kept: list[Measurement] = []
    last = state.checkpoints.get("measure")
    if last is not None and "networks" in done:  # a version that kept no networks may have chosen others
        kept = [Measurement.from_json(m) for m in json.loads(blobs.get(last.blob))]
    begun = clock()
    archs = as_archs(space.id, genes)
    if "measure" not in state.finished:
        yield StageStarted("measure", 1, 3)
        wanted: list[tuple[str, Callable[[], bytes]]] = [
            *_layer_models(layers, export_layer),
            *((a.id, partial(export_onnx, a)) for a in archs),
        ]
        unit = "models" if layers else "networks"
        group = GROUP if profile.source == "worker" else len(wanted)  # a device elsewhere is asked for all at once
        for i in range(len(kept), len(wanted), group):
            models = []
            for _, export in wanted[i : i + group]:
                models.append(export())
                yield Progress("measure", len(kept), len(wanted), unit, message="exporting")
            for measurement in measure(models, profile, [name for name, _ in wanted[i : i + group]]):
                kept.append(measurement)
                yield Progress("measure", len(kept), len(wanted), unit, message="measuring")
            yield Checkpoint("measure", len(kept), blobs.put(json.dumps([m.as_json() for m in kept]).encode()))
        again = [i for i, m in enumerate(kept) if m.refused is not None]
        if again:  # once more, when the machine may be quieter
            yield Progress("measure", len(kept), len(wanted), unit, message="measuring again what was refused")
            models = [wanted[i][1]() for i in again]
            measured_again = measure(models, profile, [AGAIN.format(wanted[i][0]) for i in again])
            for i, measurement in zip(again, measured_again, strict=True):
                kept[i] = measurement
            yield Checkpoint("measure", len(kept), blobs.put(json.dumps([m.as_json() for m in kept]).encode()))
        refused = [m.refused for m in kept[len(single) :] if m.refused is not None]
        if refused:
            yield Warned("measure", f"{len(refused)} of {len(archs)} networks were left out: {refused[0]}")
        counts = {"measured": len(archs) - len(refused), "refused": len(refused)}
        yield StageFinished("measure", clock() - begun, counts | ({"layers": len(single)} if layers else {}))

    begun = clock()
    yield StageStarted("fit", 2, 3)
    family = _layer_table(spec.name, layers, kept[: len(single)]) if layers else spec.predictor
    kept = kept[len(single) :]
    usable = np.array([m.median_ms is not None for m in kept])
    _require_enough(spec.name, kept, FEWEST_DEVICE if kin is not None else _ENOUGH)
    y = np.array([m.median_ms for m in kept if m.median_ms is not None])
    error_N = np.array([m.standard_error for m in kept if m.standard_error is not None])
    if kin is not None:
        fitted = fit_transfer(kin, space.features(genes[usable]), y, spec.seed, error_N)
    else:
        fitted = fit_family(family, space, genes[usable], y, held_out[usable], error_N)
    known = Known(genes[usable], y, held_out[usable], error_N)
    result = fit_result(fitted, profile, space, known, blobs, refused=int((~usable).sum()))
    yield StageFinished("fit", clock() - begun, result)


def _layer_models(
    layers: Mapping[str, Layer], export_layer: Callable[[Layer | None], bytes] | None
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What is measured of single layers: a name that stays the same, and how to make the model."""
    if not layers:
        return
    if export_layer is None:
        raise InvalidInput("expected a way to make the models of single layers, which this predictor measures")
    for layer in to_measure(layers):
        key = "empty" if layer is None else layer_key(layer)
        yield f"layer-{hashlib.sha256(key.encode()).hexdigest()[:12]}", partial(export_layer, layer)


def _layer_table(device: str, layers: Mapping[str, Layer], measured: Sequence[Measurement]) -> LayerLut:
    """Raises MeasurementRefused where a layer could not be measured: it is never taken to cost nothing."""
    refused = [m.refused for m in measured if m.median_ms is None]
    if refused:
        raise MeasurementRefused(
            f"{len(refused)} of {len(measured)} single layers could not be measured on {device} "
            f"(for example: {refused[0]}). Stop other work on the machine, or choose another predictor"
        )
    return table_of(layers, [m.median_ms for m in measured if m.median_ms is not None])


def _chosen(blob: bytes) -> tuple[Genes, NDArray[np.bool_]]:
    record = json.loads(blob)
    return np.array(record["genes"], dtype=np.int64), np.array(record["held_out"], dtype=bool)


def fit_result(
    fitted: Fitted,
    profile: DeviceProfile,
    space: SearchSpace,
    known: Known,
    blobs: BlobStore,
    *,
    relative: bool = True,
    refused: int = 0,
) -> dict[str, Any]:
    """The result of the stage fit: card and predictor, and, if the device may serve others as a ``relative``, what is
    known of it."""
    predictor = fitted.predictor
    result: dict[str, Any] = {
        "card": make_card(
            predictor, profile, space, fitted.n, fitted.truth_ms_H, fitted.guess, fitted.error_H, refused
        ),
        "blob": blobs.put(dump_predictor(predictor)),
        "space_id": space.id,
        "family": predictor.family,
        "profile": profile.id,
    }
    if relative:
        result |= {"known": blobs.put(known.dump()), "networks": len(known.genes_NG)}
    return result


def known_devices(space: SearchSpace, known: Sequence[Known], samples: int) -> Relatives:
    """The devices that a new one of ``samples`` networks can be learned from: those with more. Raises InvalidInput
    where there are too few."""
    return Relatives.learn([device.table(space) for device in known if len(device.genes_NG) > samples])


def informative(space: SearchSpace, relatives: Relatives, n: int, seed: int) -> Genes:
    """The ``n`` networks, of a stratified sample, whose latencies tell most about all others."""
    pool, _ = stratified(space, max(n, POOL), seed)
    return pool[choose(relatives, space.features(pool), n)]


def stratified_and_telling(space: SearchSpace, n: int, seed: int) -> tuple[Genes, NDArray[np.bool_]]:
    """``n`` distinct networks, and which of them are held out, as ``stratified``; but of those that are fitted to, half
    are the ones that tell most beside the other half. Small spaces, which have no others, are left as they are."""
    genes, held_out = stratified(space, n, seed)
    work = space.costs(genes)["macs"]
    fitted = np.setdiff1d(np.flatnonzero(~held_out), [work.argmin(), work.argmax()])
    given_up = fitted[: len(fitted) // 2]
    pool, _ = stratified(space, max(2 * n, POOL), seed)
    known = {row.tobytes() for row in genes}
    pool = pool[[row.tobytes() not in known for row in pool]]
    if len(pool) < len(given_up):
        return genes, held_out
    kept = np.setdiff1d(np.flatnonzero(~held_out), given_up)
    candidates = np.concatenate([genes[kept], pool])
    genes = genes.copy()
    genes[given_up] = candidates[d_optimal(space.features(candidates), len(given_up), np.arange(len(kept)))]
    return genes, held_out


def stratified(space: SearchSpace, n: int, seed: int) -> tuple[Genes, NDArray[np.bool_]]:
    """``n`` distinct networks spread over the logarithm of MACs, from the smallest to the largest network, shuffled;
    and which of them are held out: a random one of every four neighbours in MACs, never an extreme one."""
    rng = np.random.default_rng((seed, 5))
    counts = choice_counts(space.decisions)
    extremes = np.stack([np.zeros_like(counts), counts - 1])
    pool = space.canonical(np.concatenate([extremes, _draw(space, rng, 50 * n)]))
    pool = pool[np.sort(np.unique(pool, axis=0, return_index=True)[1])]
    work = np.log(space.costs(pool)["macs"])
    order = np.argsort(work, kind="stable")
    # Half in even steps along the range, which takes the sparse ends; the rest at random.
    targets = np.linspace(work.min(), work.max(), n // 2)
    taken = {int(order[min(np.searchsorted(work[order], t), len(order) - 1)]) for t in targets}
    remaining = np.setdiff1d(np.arange(len(pool)), list(taken))
    taken |= set(rng.choice(remaining, size=min(n - len(taken), len(remaining)), replace=False).tolist())
    chosen = np.array(sorted(taken, key=lambda i: work[i]))
    held_out = np.zeros(len(chosen), dtype=bool)
    size = round(1 / HELD_OUT)
    for start in range(1, len(chosen) - 1, size):
        held_out[rng.integers(start, min(start + size, len(chosen) - 1))] = True
    shuffle = rng.permutation(len(chosen))
    return pool[chosen][shuffle], held_out[shuffle]


def _require_enough(name: str, kept: Sequence[Measurement], fewest: int) -> None:
    """Raises MeasurementRefused if fewer networks were measured than a predictor needs."""
    refused = [m.refused for m in kept if m.refused is not None]
    if refused and len(kept) - len(refused) < fewest:
        raise MeasurementRefused(
            f"expected at least {fewest} measured networks on {name}, got {len(kept) - len(refused)} of {len(kept)}; "
            f"the others say nothing (for example: {refused[0]})"
        )


def expectation(profile: DeviceProfile, networks: int) -> str:
    """What to expect of measuring so many networks on a machine, in a sentence for people."""
    noise, protocol = profile.noise, profile.protocol
    if noise is None:
        return f"measuring {networks} networks"
    sittings = protocol.sittings
    error = math.hypot(noise.floor / math.sqrt(sittings), protocol.session_error)
    half = 100 * student_quantile(FLOOR_WEIGHT + sittings - 1) * error
    shortest_s = networks * protocol.shortest_ms / 1e3
    load = "" if noise.load is None else f", load {noise.load:.1f}"
    return (
        f"{profile.cores} {'core' if profile.cores == 1 else 'cores'}{load}; undisturbed {noise.undisturbed:.0%} of "
        f"the time; noise floor {100 * noise.floor:.1f} %: expect intervals of about ±{half:.1f} %, "
        f"and at least {shortest_s:.0f} s for {networks} networks"
    )


def how_to_do_better(profile: DeviceProfile) -> str | None:
    """Advice for a machine that is disturbed most of the time or very noisy; None where there is nothing to gain."""
    noise = profile.noise
    if noise is None or (noise.undisturbed >= 0.5 and noise.floor <= 0.02):
        return None
    return (
        f"{profile.name} is undisturbed {noise.undisturbed:.0%} of the time, with a noise floor of "
        f"{100 * noise.floor:.1f} %: measuring takes longer, and intervals are wider. Stop other programs, keep a core "
        "free of them, or use a machine without neighbours for narrower ones"
    )


def _draw(space: SearchSpace, rng: np.random.Generator, n: int) -> Genes:
    """Random networks, half of them with a common tendency to small or large choices, so that the ends are reached."""
    plain = sample(space.decisions, rng, n // 2)
    counts = choice_counts(space.decisions)
    tendency = rng.random((n - len(plain), 1))
    pull = np.clip(rng.normal(tendency, 0.3, size=(n - len(plain), len(counts))), 0.0, 0.999)
    return np.concatenate([plain, (pull * counts).astype(np.int64)])
