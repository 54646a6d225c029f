"""Trying the operators of a space on a device once: which choices of its decisions does the device not run?

A small set of networks holds every choice. Each is measured shortly; those that cannot be loaded, or of which another
provider ran a node, point at a choice that no working network has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.core.arch import Arch, Genes, as_archs, choice_counts, neighbours, sample
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import MeasurementRefused
from nas.core.ports import Measurer, SearchSpace
from nas.core.rng import Stream, rng
from nas.core.runtimes import DEFAULT_RUNTIME, RuntimeTarget
from nas.core.unsupported import ExcludedChoice

POOL = 512  # random networks in which choices are sought that others make possible
NAME = "{}.trial"  # of a network that is measured for its operators
_RUN_EVERYTHING = (RuntimeTarget(DEFAULT_RUNTIME, "CPUExecutionProvider"), RuntimeTarget(DEFAULT_RUNTIME))


@dataclass(frozen=True)
class OperatorTrial:
    """Choices that the device does not run, and the reason why it runs no network at all, if so."""

    excluded: tuple[ExcludedChoice, ...] = ()
    nothing_runs: str | None = None


def is_worth_trying(profile: DeviceProfile) -> bool:
    """Whether a device may not run some operator: not onnxruntime on the processor, to which everything falls back and
    for which networks are exported, unless in float16."""
    runs_everything = profile.target in _RUN_EVERYTHING and profile.protocol.precision != "float16"
    return profile.measurable and not runs_everything


def try_operators(
    space: SearchSpace,
    profile: DeviceProfile,
    export_onnx: Callable[[Arch], bytes],
    measure: Measurer,
    seed: int,
) -> OperatorTrial:
    """Choices that no working network has may only have met a failing one: they are tried again without it. Raises
    NotMeasuredYet as ``measure`` does."""
    genes_NG = covering_networks(space, seed)
    problems = _problems(as_archs(space.id, genes_NG), short(profile), export_onnx, measure)
    if problems[0] is not None:
        return OperatorTrial(nothing_runs=problems[0])
    more_NG = separating_networks(space, seed, genes_NG, problems)
    if len(more_NG):
        genes_NG = np.concatenate([genes_NG, more_NG])
        problems += _problems(as_archs(space.id, more_NG), short(profile), export_onnx, measure)
    return OperatorTrial(blamed(space, genes_NG, problems))


def short(profile: DeviceProfile) -> DeviceProfile:
    """The device with a protocol that asks whether a network runs, not how long it takes."""
    once = replace(profile.protocol, sittings=1, most_sittings=1, close_sittings=1, loads=0, budget_ms=50.0)
    return replace(profile, protocol=once)


def covering_networks(space: SearchSpace, seed: int) -> Genes:
    """Networks that together have every choice that any network can have, the smallest network first and then those
    that differ least from it; (N, G)."""
    pool = _pool(space, seed)
    rows = {0}
    for gene, decision in enumerate(space.decisions):
        for choice in range(len(decision.choices)):
            with_choice = np.flatnonzero(pool[:, gene] == choice)
            rows.update(with_choice[:1].tolist())
    return pool[sorted(rows)]


def separating_networks(space: SearchSpace, seed: int, genes_NG: Genes, problems: Sequence[str | None]) -> Genes:
    """For each choice that is suspected beside another one of the same network: a network that has it and otherwise
    choices that work, where there is one; (N, G)."""
    works = _working(genes_NG, problems)
    pool, rows = _pool(space, seed), set()
    works_NG = np.array([[(g, int(c)) in works for g, c in enumerate(row)] for row in pool])
    for gene, choice in {s for suspects, _ in _failing(genes_NG, problems) for s in suspects if len(suspects) > 1}:
        separates_N = (pool[:, gene] == choice) & np.delete(works_NG, gene, axis=1).all(axis=1)
        rows.update(np.flatnonzero(separates_N)[:1].tolist())
    return pool[sorted(rows)]


def _pool(space: SearchSpace, seed: int) -> Genes:
    """Different networks, those that differ least from the smallest first, which is the first of all; (N, G)."""
    smallest_G = space.canonical(np.zeros((1, len(space.decisions)), dtype=np.int64))[0]
    largest_G = choice_counts(space.decisions) - 1
    drawn_NG = sample(space.decisions, rng(seed, Stream.OPERATOR_TRIAL), POOL)
    pool = np.concatenate([smallest_G[None], neighbours(space.decisions, smallest_G), largest_G[None], drawn_NG])
    pool = space.canonical(pool)
    pool = pool[np.sort(np.unique(pool, axis=0, return_index=True)[1])]
    return pool[np.argsort((pool != smallest_G).sum(axis=1), kind="stable")]


def blamed(space: SearchSpace, genes_NG: Genes, problems: Sequence[str | None]) -> tuple[ExcludedChoice, ...]:
    """The choices behind the problems of N networks: those that no network without a problem has. Networks with the
    fewest of them say most, so they come first; of several in one network, those that are already blamed explain it."""
    reasons: dict[tuple[int, int], str] = {}
    for suspects, problem in sorted(_failing(genes_NG, problems), key=lambda of_network: len(of_network[0])):
        if not any(suspect in reasons for suspect in suspects):
            reasons |= dict.fromkeys(suspects, problem)
    return tuple(ExcludedChoice(space.decisions[g].name, c, reason) for (g, c), reason in reasons.items())


def _working(genes_NG: Genes, problems: Sequence[str | None]) -> set[tuple[int, int]]:
    """Genes and choices of the networks without a problem."""
    working = [row for row, problem in zip(genes_NG, problems, strict=True) if problem is None]
    return {(g, int(c)) for row in working for g, c in enumerate(row)}


def _failing(genes_NG: Genes, problems: Sequence[str | None]) -> list[tuple[list[tuple[int, int]], str]]:
    """Of each network with a problem, the choices that no working one has, and the problem."""
    works = _working(genes_NG, problems)
    return [
        ([(g, int(c)) for g, c in enumerate(row) if (g, int(c)) not in works], problem)
        for row, problem in zip(genes_NG, problems, strict=True)
        if problem is not None
    ]


def _problems(
    archs: Sequence[Arch], profile: DeviceProfile, export_onnx: Callable[[Arch], bytes], measure: Measurer
) -> list[str | None]:
    """Why each network does not run on the device; None for those that do. All are measured together, and one by one
    only if some cannot be."""
    models = {NAME.format(arch.id): export_onnx(arch) for arch in archs}
    try:
        return [_problem(m) for m in measure([*models.values()], profile, [*models])]
    except MeasurementRefused:
        return [_problem_alone(name, models, profile, measure) for name in models]


def _problem_alone(name: str, models: Mapping[str, bytes], profile: DeviceProfile, measure: Measurer) -> str | None:
    try:
        [measurement] = measure([models[name]], profile, [name])
    except MeasurementRefused as error:
        return str(error)
    return _problem(measurement)


def _problem(measurement: Measurement) -> str | None:
    placement = measurement.placement
    return None if placement is None or placement.complete else placement.sentence
